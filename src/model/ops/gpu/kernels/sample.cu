// A token of each row of logits.
#pragma once
#include "common.cuh"

// The larger value, and of equals the first.
struct Best {
  float value;
  int at;
  __device__ __forceinline__ void merge(float v, int i) {
    if (v > value || (v == value && i < at)) value = v, at = i;
  }
};

__device__ __forceinline__ Best warp_best(Best b) {
  UNROLL
  for (int o = 16; o > 0; o >>= 1) {
    float value = __shfl_xor_sync(WARP, b.value, o);
    int at = __shfl_xor_sync(WARP, b.at, o);
    b.merge(value, at);
  }
  return b;
}

// The first index of the maximum, in every thread; 0 where there is no maximum.
__device__ __forceinline__ Best block_best(const float* z, int vocab) {
  SHARED_ARRAY(float, value_of_warp, 32);
  SHARED_ARRAY(int, at_of_warp, 32);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  Best best{-INFINITY, 0};
  for (int i = threadIdx.x; i < vocab; i += blockDim.x)
    if (z[i] > best.value) best.value = z[i], best.at = i;
  best = warp_best(best);
  if (lane == 0) value_of_warp[warp] = best.value, at_of_warp[warp] = best.at;
  __syncthreads();
  Best of_lane{-INFINITY, 0};
  if (lane < warps) of_lane = Best{value_of_warp[lane], at_of_warp[lane]};
  return warp_best(of_lane);
}

// What is drawn with weight e^((z − max)/T); nothing below e^−40.
__device__ __forceinline__ double weight(float z, float top, double temperature) {
  double x = (double)(z - top) / temperature;
  return x > -40.0 ? exp(x) : 0.0;
}

// The first index at which the running sum of the weights exceeds u · total, as `draw` on
// the CPU up to the order of f64 sums; at temperature ≤ 0, and where rounding leaves none,
// the first index of the maximum.
//
// Grid rows, block 1024 (a multiple of 32). Every thread sums a run of neighbours; one
// thread then walks down: over the sums of 32 threads, over threads, over values.
extern "C" __global__ void __launch_bounds__(1024)
    sample(const float* z, const double* u, u32* out, int vocab, double temperature) {
  REQUIRE(blockDim.x % 32 == 0);
  SHARED_ARRAY(double, of_thread, 1024);
  SHARED_ARRAY(double, of_warp, 32);
  z += (size_t)blockIdx.x * vocab;
  Best best = block_best(z, vocab);
  if (temperature <= 0.0) {
    if (threadIdx.x == 0) out[blockIdx.x] = best.at;
    return;
  }
  int threads = blockDim.x, run = (vocab + threads - 1) / threads;
  int first = (int)threadIdx.x * run;
  double sum = 0.0;
  for (int i = first; i < vocab && i < first + run; i++)
    sum += weight(z[i], best.value, temperature);
  of_thread[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x < (unsigned)threads / 32) {
    sum = 0.0;
    for (int i = 0; i < 32; i++) sum += of_thread[threadIdx.x * 32 + i];
    of_warp[threadIdx.x] = sum;
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  double total = 0.0;
  for (int w = 0; w < threads / 32; w++) total += of_warp[w];
  double left = u[blockIdx.x] * total;
  int w = 0;
  while (w < threads / 32 && left - of_warp[w] >= 0.0) left -= of_warp[w++];
  int t = w * 32;
  while (t < threads && left - of_thread[t] >= 0.0) left -= of_thread[t++];
  u32 chosen = best.at;
  for (int i = t * run; i < vocab; i++) {
    left -= weight(z[i], best.value, temperature);
    if (left < 0.0) {
      chosen = i;
      break;
    }
  }
  out[blockIdx.x] = chosen;
}
