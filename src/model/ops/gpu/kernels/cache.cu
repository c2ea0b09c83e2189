// The cache of keys and values that generation attends to: [slots, capacity, width], one
// slot a sequence, width = kv_heads · d, with keys stored as they were turned.
#pragma once
#include "common.cuh"
#include "rope.cu"

// Row r of k, turned by its position, and of v go to row slots[r]·capacity + positions[r]
// of the cache.
//
// Grid n, block up to 256: a row a block.
template <class T>
__device__ __forceinline__ void cache_append(const T* k, const T* v, T* ck, T* cv, const int* slots,
                                             const int* positions, const float* cos,
                                             const float* sin, int heads, int half, int capacity) {
  size_t width = (size_t)heads * 2 * half, row = blockIdx.x, t = positions[row];
  size_t from = row * width, to = ((size_t)slots[row] * capacity + t) * width;
  rotate_row(k + from, ck + to, cos + t * half, sin + t * half, heads, half, 1.0f);
  for (size_t i = threadIdx.x; i < width; i += blockDim.x) cv[to + i] = v[from + i];
}

// The first `len` rows of slot `from`, keys and values, become those of slot `to`: a
// prompt that several sequences share is computed once.
//
// Grid any, block any (256).
template <class T>
__device__ __forceinline__ void cache_copy(T* ck, T* cv, int from, int to, int len, int width,
                                           int capacity) {
  constexpr int V = WIDTH<T>;
  size_t slot = (size_t)capacity * width, n = (size_t)len * width;
  const T *k = ck + from * slot, *v = cv + from * slot;
  T *k_to = ck + to * slot, *v_to = cv + to * slot;
  bool wide = slot % V == 0 && aligned16(ck) && aligned16(cv);
  for (size_t i = grid_thread() * V; i < n; i += grid_threads() * V) {
    if (wide && i + V <= n) {
      store_raw(k_to + i, load_raw<uint4>(k + i));
      store_raw(v_to + i, load_raw<uint4>(v + i));
    } else {
      for (size_t j = i; j < n && j < i + V; j++) k_to[j] = k[j], v_to[j] = v[j];
    }
  }
}

// Two neighbours of a row, at an even place; `wide`: both exist and are aligned.
__device__ __forceinline__ void read_pair(const float* p, bool wide, int left, float (&v)[2]) {
  if (wide) {
    uint2 raw = load_raw<uint2>(p);
    v[0] = __uint_as_float(raw.x), v[1] = __uint_as_float(raw.y);
  } else {
    v[0] = left > 0 ? p[0] : 0.0f, v[1] = left > 1 ? p[1] : 0.0f;
  }
}
__device__ __forceinline__ void read_pair(const bf16* p, bool wide, int left, float (&v)[2]) {
  if (wide) {
    u32 raw = load_raw<u32>(p);
    v[0] = low_bf16(raw), v[1] = high_bf16(raw);
  } else {
    v[0] = left > 0 ? to_float(p[0]) : 0.0f, v[1] = left > 1 ? to_float(p[1]) : 0.0f;
  }
}

constexpr int MAX_HEAD = 256, MAX_WARPS = 16;

// A warp's part of the attention below: keys first, first + step, …, each key read by the
// whole warp, a pair of components a lane and 64 components at a time (PAIRS times).
// Keys come in groups of GROUP, whose loads are on their way together. Leaves the
// running maximum, the sum of weights and the weighted sum of values.
template <class T, int PAIRS>
__device__ __forceinline__ void attend_warp(const T* q, const T* ck, const T* cv, int d,
                                            size_t stride, int low, int high, float scale,
                                            float& top, float& total, float (&sum)[2 * PAIRS]) {
  constexpr int GROUP = PAIRS > 2 ? 4 : 8;
  int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
  bool even = stride % 2 == 0 && d % 2 == 0;
  even = even && ((reinterpret_cast<size_t>(ck) | reinterpret_cast<size_t>(cv)) &
                  (2 * sizeof(T) - 1)) == 0;
  float query[2 * PAIRS];
  top = -INFINITY, total = 0.0f;
  UNROLL
  for (int i = 0; i < PAIRS; i++) {
    int e = i * 64 + lane * 2;
    query[2 * i] = e < d ? to_float(q[e]) * scale : 0.0f;
    query[2 * i + 1] = e + 1 < d ? to_float(q[e + 1]) * scale : 0.0f;
    sum[2 * i] = sum[2 * i + 1] = 0.0f;
  }
  for (int base = low + warp * GROUP; base <= high; base += warps * GROUP) {
    float value[GROUP][2 * PAIRS], score[GROUP];
    UNROLL
    for (int u = 0; u < GROUP; u++) {
      score[u] = 0.0f;
      UNROLL
      for (int i = 0; i < PAIRS; i++) {
        int e = i * 64 + lane * 2, left = base + u <= high ? d - e : 0;
        size_t at = (size_t)(base + u) * stride + e;
        float a[2], b[2];
        read_pair(ck + at, even && left > 1, left, a);
        read_pair(cv + at, even && left > 1, left, b);
        score[u] += query[2 * i] * a[0] + query[2 * i + 1] * a[1];
        value[u][2 * i] = b[0], value[u][2 * i + 1] = b[1];
      }
    }
    float now = top;
    UNROLL
    for (int u = 0; u < GROUP; u++) {
      score[u] = warp_sum(score[u]);
      if (base + u > high) score[u] = -INFINITY;
      now = fmaxf(now, score[u]);
    }
    float shrink = expf(top - now);
    top = now;
    total *= shrink;
    UNROLL
    for (int i = 0; i < 2 * PAIRS; i++) sum[i] *= shrink;
    UNROLL
    for (int u = 0; u < GROUP; u++) {
      float weight = expf(score[u] - now);
      total += weight;
      UNROLL
      for (int i = 0; i < 2 * PAIRS; i++) sum[i] += weight * value[u][i];
    }
  }
}

// What the warps of a block leave for each other: maxima, totals, and sums [warps, d].
struct AttendParts {
  float *tops, *totals, *sums;
};

// The parts of all warps, merged: Σ_w e^(top_w − top)·sum_w over the same of the totals.
template <class T, int PAIRS>
__device__ __forceinline__ void attend(const T* q, const T* ck, const T* cv, T* out, int d,
                                       size_t stride, int low, int high, float scale,
                                       AttendParts of) {
  int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
  float top, total, sum[2 * PAIRS];
  attend_warp<T, PAIRS>(q, ck, cv, d, stride, low, high, scale, top, total, sum);
  if (lane == 0) of.tops[warp] = top, of.totals[warp] = total;
  UNROLL
  for (int i = 0; i < PAIRS; i++) {
    int e = i * 64 + lane * 2;
    if (e < d) of.sums[warp * MAX_HEAD + e] = sum[2 * i];
    if (e + 1 < d) of.sums[warp * MAX_HEAD + e + 1] = sum[2 * i + 1];
  }
  __syncthreads();
  top = -INFINITY;
  for (int w = 0; w < warps; w++) top = fmaxf(top, of.tops[w]);
  total = 0.0f;
  for (int w = 0; w < warps; w++) total += of.totals[w] * expf(of.tops[w] - top);
  for (int e = threadIdx.x; e < d; e += blockDim.x) {
    float all = 0.0f;
    for (int w = 0; w < warps; w++) all += of.sums[w * MAX_HEAD + e] * expf(of.tops[w] - top);
    out[e] = from_float<T>(all / total);
  }
}

// Attention of single queries, already turned, [rows, heads·d]: row r sees rows
// max(0, t+1−window) to t = positions[r] of its slot (from 0 without a window, ≤ 0), and
// head h the kv head h/(heads/kv_heads). out = Σ softmax(scale · q·k) v.
//
// Grid (rows, heads), block 128: four warps take keys in turn with a softmax of their own
// (running maximum and sum), and are merged through shared memory. Up to 512 threads for
// few rows, where more loads on their way make up for the missing blocks. d ≤ 256.
template <class T>
__device__ __forceinline__ void attend_cached(const T* q, const T* ck, const T* cv,
                                              const int* slots, const int* positions, T* out,
                                              int heads, int kv_heads, int d, int capacity,
                                              int window, float scale) {
  REQUIRE(blockDim.x % 32 == 0 && blockDim.x <= 32 * MAX_WARPS && d <= MAX_HEAD);
  SHARED_ARRAY(float, tops, MAX_WARPS);
  SHARED_ARRAY(float, totals, MAX_WARPS);
  SHARED_ARRAY(float, sums, MAX_WARPS * MAX_HEAD);
  AttendParts of{tops, totals, sums};
  size_t row = blockIdx.x, head = blockIdx.y, kv_head = head / (heads / kv_heads);
  size_t stride = (size_t)kv_heads * d;
  size_t start = (size_t)slots[row] * capacity * stride + kv_head * d;
  size_t at = (row * heads + head) * d;
  int high = positions[row], low = window > 0 && high + 1 > window ? high + 1 - window : 0;
  q += at, out += at, ck += start, cv += start;
  if (d <= 64)
    attend<T, 1>(q, ck, cv, out, d, stride, low, high, scale, of);
  else if (d <= 128)
    attend<T, 2>(q, ck, cv, out, d, stride, low, high, scale, of);
  else
    attend<T, 4>(q, ck, cv, out, d, stride, low, high, scale, of);
}

#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void cache_append_##form(                                                  \
      const T* k, const T* v, T* ck, T* cv, const int* slots, const int* positions,                \
      const float* cos, const float* sin, int heads, int half, int capacity) {                     \
    cache_append(k, v, ck, cv, slots, positions, cos, sin, heads, half, capacity);                 \
  }                                                                                                \
  extern "C" __global__ void cache_copy_##form(T* ck, T* cv, int from, int to, int len, int width, \
                                               int capacity) {                                     \
    cache_copy(ck, cv, from, to, len, width, capacity);                                            \
  }                                                                                                \
  extern "C" __global__ void attend_cached_##form(                                                 \
      const T* q, const T* ck, const T* cv, const int* slots, const int* positions, T* out,        \
      int heads, int kv_heads, int d, int capacity, int window, float scale) {                     \
    attend_cached(q, ck, cv, slots, positions, out, heads, kv_heads, d, capacity, window, scale);  \
  }
FORMS(KERNEL)
#undef KERNEL
