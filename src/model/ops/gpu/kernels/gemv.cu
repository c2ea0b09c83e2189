// y[m, out] = x[m, k] Wᵀ with W[out, k] dense, for the few rows (m ≤ 8) of generation.
// Every weight is used once, so the time is that of reading W: the sums are f32, and
// up to four independent 16-byte loads a lane are on their way at a time; with more
// rows of x fewer, or registers would run short.
//
// Grid ceil(out/8), block 256: a warp a row of W.
#pragma once
#include "common.cuh"

template <class T, int M>
__device__ __forceinline__ void gemv_rows(const T* w, const T* x, T* y, size_t row, int out, int k,
                                          int m) {
  constexpr int V = WIDTH<T>, AHEAD = M > 4 ? 1 : M > 2 ? 2 : 4, STEP = 32 * V;
  int lane = threadIdx.x % 32;
  const T* line = w + row * k;
  float sum[M];
  UNROLL
  for (int r = 0; r < M; r++) sum[r] = 0.0f;
  auto add = [&](const float(&a)[V], int i) {
    UNROLL
    for (int r = 0; r < M; r++) {
      if (r >= m) break;
      float v[V];
      unpack(load_raw<uint4>(x + (size_t)r * k + i), v);
      UNROLL
      for (int j = 0; j < V; j++) sum[r] += a[j] * v[j];
    }
  };
  int i = lane;
  if (k % V == 0 && aligned16(w) && aligned16(x)) {
    i = lane * V;
    for (; i + (AHEAD - 1) * STEP < k; i += AHEAD * STEP) {
      uint4 raw[AHEAD];
      UNROLL
      for (int u = 0; u < AHEAD; u++) raw[u] = load_once<uint4>(line + i + u * STEP);
      UNROLL
      for (int u = 0; u < AHEAD; u++) {
        float a[V];
        unpack(raw[u], a);
        add(a, i + u * STEP);
      }
    }
    for (; i < k; i += STEP) {
      float a[V];
      unpack(load_once<uint4>(line + i), a);
      add(a, i);
    }
  } else {
    for (; i < k; i += 32) {
      float a = to_float(line[i]);
      UNROLL
      for (int r = 0; r < M; r++)
        if (r < m) sum[r] += a * to_float(x[(size_t)r * k + i]);
    }
  }
  UNROLL
  for (int r = 0; r < M; r++) {
    float total = warp_sum(sum[r]);
    if (r < m && lane == 0) y[(size_t)r * out + row] = from_float<T>(total);
  }
}

template <class T>
__device__ __forceinline__ void gemv(const T* w, const T* x, T* y, int out, int k, int m) {
  REQUIRE(blockDim.x == 256 && m <= 8);
  size_t row = (size_t)blockIdx.x * 8 + threadIdx.x / 32;
  if (row >= (size_t)out) return;
  if (m == 1)
    gemv_rows<T, 1>(w, x, y, row, out, k, m);
  else if (m == 2)
    gemv_rows<T, 2>(w, x, y, row, out, k, m);
  else if (m <= 4)
    gemv_rows<T, 4>(w, x, y, row, out, k, m);
  else
    gemv_rows<T, 8>(w, x, y, row, out, k, m);
}

#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void gemv_##form(const T* w, const T* x, T* y, int out, int k, int m) {    \
    gemv(w, x, y, out, k, m);                                                                      \
  }
FORMS(KERNEL)
#undef KERNEL
