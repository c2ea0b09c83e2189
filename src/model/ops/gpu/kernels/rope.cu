// Rotary positions: component i of a head, paired with component i + half, is turned by
// the angle of its position t,
//   (a, b) → (a·cos − b·s, b·cos + a·s),  s = sign · sin,
// with cos and sin [positions, half]; sign −1 turns back, which is the backward pass.
#pragma once
#include "common.cuh"

// One row of `heads` heads by its whole block; x may be out. Every product and sum is
// rounded by itself, as on the CPU. A thread takes WIDTH pairs of one head.
template <class T>
__device__ __forceinline__ void rotate_row(const T* x, T* out, const float* cos, const float* sin,
                                           int heads, int half, float sign) {
  constexpr int V = WIDTH<T>;
  int chunks = (half + V - 1) / V;
  bool wide = half % V == 0 && aligned16(x) && aligned16(out);
  for (int c = threadIdx.x; c < heads * chunks; c += blockDim.x) {
    int head = c / chunks, i = (c - head * chunks) * V;
    size_t at = (size_t)head * 2 * half + i, left = half - i;
    float a[V], b[V], p[V], q[V];
    read(x + at, left, wide, a);
    read(x + at + half, left, wide, b);
    UNROLL
    for (int j = 0; j < V; j++) {
      bool there = (size_t)j < left;
      float cs = there ? cos[i + j] : 0.0f, sn = there ? sin[i + j] * sign : 0.0f;
      p[j] = __fsub_rn(__fmul_rn(a[j], cs), __fmul_rn(b[j], sn));
      q[j] = __fadd_rn(__fmul_rn(b[j], cs), __fmul_rn(a[j], sn));
    }
    write(out + at, left, wide, p);
    write(out + at + half, left, wide, q);
  }
}

// Grid n, block up to 256 (heads·half/WIDTH threads have work): a row a block.
#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void rope_##form(const T* x, T* out, const int* positions,                 \
                                         const float* cos, const float* sin, int heads, int half,  \
                                         float sign) {                                             \
    size_t start = (size_t)blockIdx.x * heads * 2 * half;                                          \
    size_t angle = (size_t)positions[blockIdx.x] * half;                                           \
    rotate_row(x + start, out + start, cos + angle, sin + angle, heads, half, sign);               \
  }
FORMS(KERNEL)
#undef KERNEL
