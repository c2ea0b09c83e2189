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

constexpr int MAX_HEAD = 256, MAX_WARPS = 16;

// What the parts of a block leave for each other: maxima, totals, and sums [parts, width],
// where width is d or a little more and parts · width at most MAX_WARPS · MAX_HEAD.
struct AttendParts {
  float *tops, *totals, *sums;
};

// A part of the attention below: LANES neighbouring threads read a key together, 16 bytes
// each (CHUNKS times), and a warp as many keys as it has such parts. Each part has a
// softmax of its own, with a running maximum, and takes keys in groups of GROUP, whose
// loads are on their way together. `sum` is of this lane's components.
template <class T, int LANES, int CHUNKS>
__device__ __forceinline__ void attend_part(const T* q, const T* ck, const T* cv, int d,
                                            size_t stride, int low, int high, float scale,
                                            float& top, float& total,
                                            float (&sum)[CHUNKS][WIDTH<T>]) {
  constexpr int V = WIDTH<T>, TOGETHER = 32 / LANES, GROUP = 4;
  int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  int lane = threadIdx.x % LANES, part = threadIdx.x % 32 / LANES;
  bool wide = d % V == 0 && stride % V == 0 && aligned16(ck) && aligned16(cv);
  float query[CHUNKS][V];
  top = -INFINITY, total = 0.0f;
  UNROLL
  for (int c = 0; c < CHUNKS; c++) {
    int e = (c * LANES + lane) * V;
    read(q + e, e < d ? d - e : 0, false, query[c]);
    UNROLL
    for (int j = 0; j < V; j++) query[c][j] *= scale, sum[c][j] = 0.0f;
  }
  // The same number of turns for all parts of a warp: they shuffle together.
  constexpr int KEYS = TOGETHER * GROUP;
  for (int base = low + warp * KEYS; base <= high; base += warps * KEYS) {
    float value[GROUP][CHUNKS][V], score[GROUP];
    UNROLL
    for (int u = 0; u < GROUP; u++) {
      int key = base + u * TOGETHER + part;
      score[u] = 0.0f;
      UNROLL
      for (int c = 0; c < CHUNKS; c++) {
        int e = (c * LANES + lane) * V;
        size_t at = (size_t)key * stride + e, left = key <= high && e < d ? d - e : 0;
        float k[V];
        read(ck + at, left, wide, k);
        read(cv + at, left, wide, value[u][c]);
        UNROLL
        for (int j = 0; j < V; j++) score[u] += query[c][j] * k[j];
      }
    }
    float now = top;
    UNROLL
    for (int u = 0; u < GROUP; u++) {
      UNROLL
      for (int o = LANES / 2; o > 0; o >>= 1) score[u] += __shfl_xor_sync(WARP, score[u], o);
      if (base + u * TOGETHER + part > high) score[u] = -INFINITY;
      now = fmaxf(now, score[u]);
    }
    // −∞ − −∞ is no number: a part may have had no key yet.
    float shrink = top == now ? 1.0f : expf(top - now);
    top = now;
    total *= shrink;
    UNROLL
    for (int c = 0; c < CHUNKS; c++)
      UNROLL
      for (int j = 0; j < V; j++) sum[c][j] *= shrink;
    UNROLL
    for (int u = 0; u < GROUP; u++) {
      float weight = score[u] == -INFINITY ? 0.0f : expf(score[u] - now);
      total += weight;
      UNROLL
      for (int c = 0; c < CHUNKS; c++)
        UNROLL
        for (int j = 0; j < V; j++) sum[c][j] += weight * value[u][c][j];
    }
  }
}

// All parts, merged: Σ_p e^(top_p − top)·sum_p over the same of the totals.
template <class T, int LANES, int CHUNKS>
__device__ __forceinline__ void attend(const T* q, const T* ck, const T* cv, T* out, int d,
                                       size_t stride, int low, int high, float scale,
                                       AttendParts of) {
  constexpr int V = WIDTH<T>, WIDE = LANES * CHUNKS * V;
  int part = threadIdx.x / LANES, parts = blockDim.x / LANES, lane = threadIdx.x % LANES;
  float top, total, sum[CHUNKS][V];
  attend_part<T, LANES, CHUNKS>(q, ck, cv, d, stride, low, high, scale, top, total, sum);
  if (lane == 0) of.tops[part] = top, of.totals[part] = total;
  UNROLL
  for (int c = 0; c < CHUNKS; c++)
    UNROLL
    for (int j = 0; j < V; j++) of.sums[part * WIDE + (c * LANES + lane) * V + j] = sum[c][j];
  __syncthreads();
  top = -INFINITY;
  for (int p = 0; p < parts; p++) top = fmaxf(top, of.tops[p]);
  total = 0.0f;
  for (int p = 0; p < parts; p++) total += of.totals[p] * expf(of.tops[p] - top);
  for (int e = threadIdx.x; e < d; e += blockDim.x) {
    float all = 0.0f;
    for (int p = 0; p < parts; p++) all += of.sums[p * WIDE + e] * expf(of.tops[p] - top);
    out[e] = from_float<T>(all / total);
  }
}

// Attention of single queries, already turned, [rows, heads·d]: row r sees rows
// max(0, t+1−window) to t = positions[r] of its slot (from 0 without a window, ≤ 0), and
// head h the kv head h/(heads/kv_heads). out = Σ softmax(scale · q·k) v.
//
// Grid (rows, heads), block 128: parts of warps take keys in turn, and are merged through
// shared memory. Up to 512 threads for few rows, where more loads on their way make up for
// the missing blocks. d ≤ 256.
template <class T>
__device__ __forceinline__ void attend_cached(const T* q, const T* ck, const T* cv,
                                              const int* slots, const int* positions, T* out,
                                              int heads, int kv_heads, int d, int capacity,
                                              int window, float scale) {
  REQUIRE(blockDim.x % 32 == 0 && blockDim.x <= 32 * MAX_WARPS && d <= MAX_HEAD);
  SHARED_ARRAY(float, tops, MAX_WARPS * 4);
  SHARED_ARRAY(float, totals, MAX_WARPS * 4);
  SHARED_ARRAY(float, sums, MAX_WARPS * MAX_HEAD);
  AttendParts of{tops, totals, sums};
  size_t row = blockIdx.x, head = blockIdx.y, kv_head = head / (heads / kv_heads);
  size_t stride = (size_t)kv_heads * d;
  size_t start = (size_t)slots[row] * capacity * stride + kv_head * d;
  size_t at = (row * heads + head) * d;
  int high = positions[row], low = window > 0 && high + 1 > window ? high + 1 - window : 0;
  q += at, out += at, ck += start, cv += start;
  constexpr int V = WIDTH<T>;
  if (d <= 8 * V)
    attend<T, 8, 1>(q, ck, cv, out, d, stride, low, high, scale, of);
  else if (d <= 16 * V)
    attend<T, 16, 1>(q, ck, cv, out, d, stride, low, high, scale, of);
  else if (d <= 32 * V)
    attend<T, 32, 1>(q, ck, cv, out, d, stride, low, high, scale, of);
  else
    attend<T, 32, MAX_HEAD / (32 * V)>(q, ck, cv, out, d, stride, low, high, scale, of);
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
  extern "C" __global__ void __launch_bounds__(32 * MAX_WARPS) attend_cached_##form(               \
      const T* q, const T* ck, const T* cv, const int* slots, const int* positions, T* out,        \
      int heads, int kv_heads, int d, int capacity, int window, float scale) {                     \
    attend_cached(q, ck, cv, slots, positions, out, heads, kv_heads, d, capacity, window, scale);  \
  }
FORMS(KERNEL)
#undef KERNEL
