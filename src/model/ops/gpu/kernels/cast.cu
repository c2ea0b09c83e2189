// Copies, to another type or the same. f32 to bf16 rounds to the nearest even.
//
// Grid any, block any (256): 16 bytes of the wider type a thread at a time.
#pragma once
#include "common.cuh"

template <class From, class To>
__device__ __forceinline__ void cast(const From* x, To* y, u64 n) {
  constexpr int V = WIDTH<To>;
  bool wide = aligned16(y);
  for (size_t i = grid_thread() * V; i < n; i += grid_threads() * V) {
    float a[V];
    UNROLL
    for (int j = 0; j < V; j++) a[j] = i + j < n ? to_float(x[i + j]) : 0.0f;
    write(y + i, n - i, wide, a);
  }
}

extern "C" __global__ void round_bf16(const float* x, bf16* y, u64 n) { cast(x, y, n); }
extern "C" __global__ void widen_bf16(const bf16* x, float* y, u64 n) { cast(x, y, n); }

#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void copy_##form(const T* x, T* y, u64 n) { cast(x, y, n); }
FORMS(KERNEL)
#undef KERNEL
