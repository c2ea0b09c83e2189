// RMSNorm over rows of x[n, d] with w[d]: y = x · r · w, r = 1/√(mean(x²) + ε).
#pragma once
#include "common.cuh"

// Grid n, block 256 (a multiple of 32): a row a block. The second read of a row comes
// from the cache.
template <class T>
__device__ __forceinline__ void rms_norm_forward(const T* x, const T* w, T* y, int d, float eps) {
  REQUIRE(blockDim.x % 32 == 0);
  constexpr int V = WIDTH<T>;
  x += (size_t)blockIdx.x * d;
  y += (size_t)blockIdx.x * d;
  bool wide = aligned16(x) && aligned16(w) && aligned16(y);
  int step = blockDim.x * V;
  float square = 0.0f;
  for (int i = threadIdx.x * V; i < d; i += step) {
    float a[V];
    read(x + i, d - i, wide, a);
    UNROLL
    for (int j = 0; j < V; j++) square += a[j] * a[j];
  }
  float inverse = 1.0f / sqrtf(block_sum(square) / d + eps);
  for (int i = threadIdx.x * V; i < d; i += step) {
    float a[V], b[V];
    read(x + i, d - i, wide, a);
    read(w + i, d - i, wide, b);
    UNROLL
    for (int j = 0; j < V; j++) a[j] = a[j] * inverse * b[j];
    write(y + i, d - i, wide, a);
  }
}

// dx = (ĝ − x·c)·r with ĝ = g·w and c = (ĝ·x)·r²/d. Keeps r of each row for the gradient
// of w below, if asked to. Launch as the forward pass.
template <class T>
__device__ __forceinline__ void rms_norm_backward(const T* x, const T* w, const T* g, T* dx,
                                                  float* inverses, int d, float eps) {
  REQUIRE(blockDim.x % 32 == 0);
  constexpr int V = WIDTH<T>;
  size_t start = (size_t)blockIdx.x * d;
  x += start, g += start, dx += start;
  bool wide = aligned16(x) && aligned16(w) && aligned16(g) && aligned16(dx);
  int step = blockDim.x * V;
  float square = 0.0f, dot = 0.0f;
  for (int i = threadIdx.x * V; i < d; i += step) {
    float a[V], b[V], c[V];
    read(x + i, d - i, wide, a);
    read(w + i, d - i, wide, b);
    read(g + i, d - i, wide, c);
    UNROLL
    for (int j = 0; j < V; j++) {
      square += a[j] * a[j];
      dot += c[j] * b[j] * a[j];
    }
  }
  float inverse = 1.0f / sqrtf(block_sum(square) / d + eps);
  float along = block_sum(dot) * inverse * inverse / d;
  for (int i = threadIdx.x * V; i < d; i += step) {
    float a[V], b[V], c[V];
    read(x + i, d - i, wide, a);
    read(w + i, d - i, wide, b);
    read(g + i, d - i, wide, c);
    UNROLL
    for (int j = 0; j < V; j++) a[j] = (c[j] * b[j] - a[j] * along) * inverse;
    write(dx + i, d - i, wide, a);
  }
  if (inverses && threadIdx.x == 0) inverses[blockIdx.x] = inverse;
}

// dw = Σ_rows g·x·r.
//
// Grid ceil(d/32), block 256: 32 columns a block, over which 8 warps share the rows; a
// warp reads 32 neighbours of one row.
template <class T>
__device__ __forceinline__ void rms_norm_weight(const T* x, const T* g, const float* inverses,
                                                T* dw, int n, int d) {
  REQUIRE(blockDim.x == 256);
  SHARED_ARRAY(float, of_warp, 256);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int column = blockIdx.x * 32 + lane;
  float sum = 0.0f;
  if (column < d) {
    UNROLL_BY(4)
    for (int row = warp; row < n; row += 8) {
      size_t at = (size_t)row * d + column;
      sum += to_float(g[at]) * (to_float(x[at]) * inverses[row]);
    }
  }
  of_warp[threadIdx.x] = sum;
  __syncthreads();
  if (warp == 0 && column < d) {
    for (int other = 1; other < 8; other++) sum += of_warp[other * 32 + lane];
    dw[column] = from_float<T>(sum);
  }
}

#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void rms_norm_forward_##form(const T* x, const T* w, T* y, int d,          \
                                                     float eps) {                                  \
    rms_norm_forward(x, w, y, d, eps);                                                             \
  }                                                                                                \
  extern "C" __global__ void rms_norm_backward_##form(const T* x, const T* w, const T* g, T* dx,   \
                                                      float* inverse, int d, float eps) {          \
    rms_norm_backward(x, w, g, dx, inverse, d, eps);                                               \
  }                                                                                                \
  extern "C" __global__ void rms_norm_weight_##form(const T* x, const T* g, const float* inverse,  \
                                                    T* dw, int n, int d) {                         \
    rms_norm_weight(x, g, inverse, dw, n, d);                                                      \
  }
FORMS(KERNEL)
#undef KERNEL
