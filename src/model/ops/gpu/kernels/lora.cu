// What linear layers need beside products: dropout on an adapter's input, and biases.
//
// Grid any, block any (256): 16 bytes a thread at a time.
#pragma once
#include "common.cuh"

// Whether dropout takes value i: 24 bits of SplitMix64 of key and place below p, the
// same integers as on the CPU, so that masks agree everywhere and the backward pass
// draws them again.
__device__ __forceinline__ bool drops(u64 key, u64 i, u32 limit) {
  u64 z = key + i * 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return (u32)(z >> 40) < limit;
}

// out = 0 where dropped, x/(1 − p) elsewhere; x may be out.
template <class T>
__device__ __forceinline__ void dropout(const T* x, T* out, float p, u64 key, u64 n) {
  constexpr int V = WIDTH<T>;
  // A whole number is below a threshold if it is below the next whole one.
  u32 limit = (u32)ceilf(__fmul_rn(p, 16777216.0f));
  float keep = __fdiv_rn(1.0f, __fsub_rn(1.0f, p));
  bool wide = aligned16(x) && aligned16(out);
  for (size_t i = grid_thread() * V; i < n; i += grid_threads() * V) {
    float a[V];
    read(x + i, n - i, wide, a);
    UNROLL
    for (int j = 0; j < V; j++) a[j] = drops(key, i + j, limit) ? 0.0f : __fmul_rn(a[j], keep);
    write(out + i, n - i, wide, a);
  }
}

// y = x + b over rows of d values; x may be y.
template <class T>
__device__ __forceinline__ void add_bias(const T* x, const T* b, T* y, int d, u64 n) {
  constexpr int V = WIDTH<T>;
  bool wide = aligned16(x) && aligned16(y);
  for (size_t i = grid_thread() * V; i < n; i += grid_threads() * V) {
    float a[V];
    read(x + i, n - i, wide, a);
    int column = (int)(i % (u64)d);
    UNROLL
    for (int j = 0; j < V; j++) {
      a[j] += to_float(b[column]);
      if (++column == d) column = 0;
    }
    write(y + i, n - i, wide, a);
  }
}

#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void dropout_##form(const T* x, T* out, float p, u64 key, u64 n) {         \
    dropout(x, out, p, key, n);                                                                    \
  }                                                                                                \
  extern "C" __global__ void add_bias_##form(const T* x, const T* b, T* y, int d, u64 n) {         \
    add_bias(x, b, y, d, n);                                                                       \
  }
FORMS(KERNEL)
#undef KERNEL
