// Log-probability of the label of each row of logits z[rows, vocab], in f32:
//   out = z[label] − log Σ e^z,  dz = g · (onehot(label) − softmax(z)).
//
// Grid rows, block 1024 (a multiple of 32): a row a block. Maximum and sum take one pass
// over the row; the gradient reads it a second time, from L2.
#pragma once
#include "common.cuh"

__device__ __forceinline__ LogSum log_sum_of_row(const float* z, int vocab) {
  constexpr int V = WIDTH<float>;
  LogSum sum{-INFINITY, 0.0f};
  bool wide = aligned16(z);
  for (int i = threadIdx.x * V; i < vocab; i += blockDim.x * V) {
    float a[V];
    read(z + i, vocab - i, wide, a);
    UNROLL
    for (int j = 0; j < V; j++)
      if (i + j < vocab) sum.add(a[j]);
  }
  return block_log_sum(sum);
}

extern "C" __global__ void __launch_bounds__(1024)
    log_prob_forward(const float* z, const u32* labels, float* out, int vocab) {
  REQUIRE(blockDim.x % 32 == 0);
  z += (size_t)blockIdx.x * vocab;
  LogSum sum = log_sum_of_row(z, vocab);
  if (threadIdx.x == 0) {
    u32 label = labels[blockIdx.x];
    REQUIRE(label < (u32)vocab);
    out[blockIdx.x] = z[label] - sum.top - logf(sum.total);
  }
}

template <class T>
__device__ __forceinline__ void log_prob_backward(const float* z, const u32* labels, const float* g,
                                                  T* dz, int vocab) {
  REQUIRE(blockDim.x % 32 == 0);
  constexpr int V = WIDTH<float>;
  z += (size_t)blockIdx.x * vocab;
  dz += (size_t)blockIdx.x * vocab;
  LogSum sum = log_sum_of_row(z, vocab);
  float upstream = g[blockIdx.x], scale = -upstream / sum.total;
  int label = (int)labels[blockIdx.x];
  bool wide = aligned16(z), wide_out = reinterpret_cast<size_t>(dz) % (4 * sizeof(T)) == 0;
  for (int i = threadIdx.x * V; i < vocab; i += blockDim.x * V) {
    float a[V];
    read(z + i, vocab - i, wide, a);
    UNROLL
    for (int j = 0; j < V; j++)
      a[j] = expf(a[j] - sum.top) * scale + (i + j == label ? upstream : 0.0f);
    write_four(dz + i, vocab - i, wide_out, a);
  }
}

#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void __launch_bounds__(1024)                                               \
      log_prob_backward_##form(const float* z, const u32* labels, const float* g, T* dz,           \
                               int vocab) {                                                        \
    log_prob_backward(z, labels, g, dz, vocab);                                                    \
  }
FORMS(KERNEL)
#undef KERNEL
