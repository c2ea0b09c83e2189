// SwiGLU: y = silu(a)·u with silu(a) = a·σ(a), for gate a and up u; over flat tensors.
//
// Grid any, block any (256): 16 bytes of each tensor a thread at a time.
#pragma once
#include "common.cuh"

template <class T>
__device__ __forceinline__ void swiglu_forward(const T* gate, const T* up, T* out, u64 n) {
  constexpr int V = WIDTH<T>;
  bool wide = aligned16(gate) && aligned16(up) && aligned16(out);
  for (size_t i = grid_thread() * V; i < n; i += grid_threads() * V) {
    float a[V], u[V];
    read(gate + i, n - i, wide, a);
    read(up + i, n - i, wide, u);
    UNROLL
    for (int j = 0; j < V; j++) a[j] = a[j] / (1.0f + expf(-a[j])) * u[j];
    write(out + i, n - i, wide, a);
  }
}

// With s = σ(a): da = g·u·s·(1 + a·(1 − s)), du = g·a·s.
template <class T>
__device__ __forceinline__ void swiglu_backward(const T* gate, const T* up, const T* g, T* dgate,
                                                T* dup, u64 n) {
  constexpr int V = WIDTH<T>;
  bool wide = aligned16(gate) && aligned16(up) && aligned16(g) && aligned16(dgate) &&
              aligned16(dup);
  for (size_t i = grid_thread() * V; i < n; i += grid_threads() * V) {
    float a[V], u[V], d[V];
    read(gate + i, n - i, wide, a);
    read(up + i, n - i, wide, u);
    read(g + i, n - i, wide, d);
    UNROLL
    for (int j = 0; j < V; j++) {
      float s = 1.0f / (1.0f + expf(-a[j]));
      u[j] = d[j] * u[j] * s * (1.0f + a[j] * (1.0f - s));
      d[j] = d[j] * a[j] * s;
    }
    write(dgate + i, n - i, wide, u);
    write(dup + i, n - i, wide, d);
  }
}

#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void swiglu_forward_##form(const T* gate, const T* up, T* out, u64 n) {    \
    swiglu_forward(gate, up, out, n);                                                              \
  }                                                                                                \
  extern "C" __global__ void swiglu_backward_##form(const T* gate, const T* up, const T* g,        \
                                                    T* dgate, T* dup, u64 n) {                     \
    swiglu_backward(gate, up, g, dgate, dup, n);                                                   \
  }
FORMS(KERNEL)
#undef KERNEL
