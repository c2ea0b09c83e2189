// Softmax over the columns that causal attention sees, and its gradient.
#pragma once
#include "common.cuh"

// p = exp(s − max)/Σ over columns max(0, q+1−window) to q for the row of position
// q = offset + t, 0 elsewhere; without a window (≤ 0) from column 0. Scores are f32,
// [heads, len, cols].
//
// Grid (len, heads), block 128 or 256 (a multiple of 32): a row a block. Maximum and sum
// take one pass; the second read comes from the cache.
template <class T>
__device__ __forceinline__ void softmax_causal(const float* s, T* p, int len, int cols, int offset,
                                               int window) {
  REQUIRE(blockDim.x % 32 == 0);
  size_t row = (size_t)blockIdx.y * len + blockIdx.x;
  s += row * cols;
  p += row * cols;
  int query = offset + (int)blockIdx.x;
  int last = query < cols ? query : cols - 1;
  int first = window > 0 && query + 1 > window ? query + 1 - window : 0;
  LogSum sum{-INFINITY, 0.0f};
  for (int i = first + threadIdx.x; i <= last; i += blockDim.x) sum.add(s[i]);
  sum = block_log_sum(sum);
  float inverse = 1.0f / sum.total;
  for (int i = threadIdx.x; i < cols; i += blockDim.x) {
    bool seen = first <= i && i <= last;
    p[i] = from_float<T>(seen ? expf(s[i] - sum.top) * inverse : 0.0f);
  }
}

// ds = p·(dp − Σ p·dp), dp in f32, over the first `live` of `cols` columns; the others,
// which only fill rows up to a width that products like, are written 0 and not read.
//
// Grid rows, block 128 or 256 (a multiple of 32).
template <class T>
__device__ __forceinline__ void softmax_backward(const T* p, const float* dp, T* ds, int live,
                                                 int cols) {
  REQUIRE(blockDim.x % 32 == 0);
  size_t start = (size_t)blockIdx.x * cols;
  p += start, dp += start, ds += start;
  float dot = 0.0f;
  for (int i = threadIdx.x; i < live; i += blockDim.x) dot += to_float(p[i]) * dp[i];
  dot = block_sum(dot);
  for (int i = threadIdx.x; i < cols; i += blockDim.x)
    ds[i] = from_float<T>(i < live ? to_float(p[i]) * (dp[i] - dot) : 0.0f);
}

#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void softmax_causal_##form(const float* s, T* p, int len, int cols,        \
                                                   int offset, int window) {                       \
    softmax_causal(s, p, len, cols, offset, window);                                               \
  }                                                                                                \
  extern "C" __global__ void softmax_backward_##form(const T* p, const float* dp, T* ds,           \
                                                     int live, int cols) {                         \
    softmax_backward(p, dp, ds, live, cols);                                                       \
  }
FORMS(KERNEL)
#undef KERNEL
