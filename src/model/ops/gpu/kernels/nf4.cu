// Weights in NF4 (QLoRA): codes of 4 bits, two a byte with the first in the high half;
// blocks of 64 over the flat weights share a scale s, and w = CODE[code] · s.
#pragma once
#include "common.cuh"

__constant__ float NF4_CODE[16] = {
    -1.0f,        -0.6961928f,  -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f,
    -0.091050036f, 0.0f,         0.0795803f,   0.1609302f,  0.2461123f,   0.33791524f,
    0.44070983f,  0.562617f,    0.72295684f,  1.0f,
};

// The codes in shared memory: 16 words in 16 banks, so the lanes of a warp read any of
// them at once. (Constant memory would serve one address at a time.)
__device__ __forceinline__ void load_codes(float* code) {
  if (threadIdx.x < 16) code[threadIdx.x] = NF4_CODE[threadIdx.x];
  __syncthreads();
}

// Scales, themselves quantised: s_i = map[codes_i] · nested_{i/256} + offset, or s_i =
// single_i. Two roundings, as on the CPU.
struct Nf4Scales {
  const u8* codes;
  const float* nested;
  const float* map;
  float offset;
  const float* single;

  __device__ __forceinline__ float operator()(size_t block) const {
    if (single) return single[block];
    return __fadd_rn(__fmul_rn(map[codes[block]], nested[block / 256]), offset);
  }
};

// Weight j (0 to 7) of four bytes in the order of memory.
__device__ __forceinline__ u32 nibble(u32 bytes, int j) {
  return bytes >> (j % 2 ? 4 * j - 4 : 4 * j + 4) & 15;
}

// The whole matrix as T, for the products that need it so; f32 bit for bit as the CPU.
//
// Grid any, block 256 (a multiple of 32). A warp takes 512 weights at a time, in two
// halves of 8 a lane: 4 bytes in, 16 (bf16) out, all in a row over the warp.
template <class T>
__device__ __forceinline__ void nf4_dequantise(const u8* packed_, Nf4Scales scales, T* out, u64 n) {
  REQUIRE(blockDim.x % 32 == 0 && blockDim.x >= 32);
  SHARED_ARRAY(float, code, 16);
  load_codes(code);
  constexpr int V = WIDTH<T>;
  bool wide = aligned16(out) && (reinterpret_cast<size_t>(packed_) & 3) == 0;
  int lane = threadIdx.x % 32;
  for (size_t base = grid_thread() / 32 * 512; base < n; base += grid_threads() * 16) {
    UNROLL
    for (int half = 0; half < 2; half++) {
      size_t i = base + half * 256 + lane * 8; // 8 weights never straddle two blocks
      if (i >= n) continue;
      float s = scales(i / 64);
      if (wide && i + 8 <= n) {
        u32 bytes = load_once<u32>(packed_ + i / 2);
        UNROLL
        for (int c = 0; c < 8; c += V) {
          float w[V];
          UNROLL
          for (int j = 0; j < V; j++) w[j] = __fmul_rn(code[nibble(bytes, c + j)], s);
          store_raw(out + i + c, packed(w));
        }
      } else {
        for (int j = 0; j < 8 && i + j < n; j++) {
          u32 byte = packed_[(i + j) / 2];
          out[i + j] = from_float<T>(__fmul_rn(code[j % 2 ? byte & 15 : byte >> 4], s));
        }
      }
    }
  }
}

#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void nf4_dequantise_##form(                                                \
      const u8* packed, const u8* codes, const float* nested, const float* map, float offset,      \
      const float* single, T* out, u64 n) {                                                        \
    nf4_dequantise(packed, Nf4Scales{codes, nested, map, offset, single}, out, n);                 \
  }
FORMS(KERNEL)
#undef KERNEL

// One row of W times M rows of x, of which m exist: the sums of this lane.
template <class T, int M>
__device__ __forceinline__ void nf4_dot(const u8* packed_, const Nf4Scales& scales,
                                        const float* code, const T* x, size_t row, int k, int m,
                                        float (&sum)[M]) {
  constexpr int V = WIDTH<T>;
  int lane = threadIdx.x % 32;
  size_t start = row * k;
  bool wide = k % 16 == 0 && aligned16(x) && (reinterpret_cast<size_t>(packed_) & 7) == 0;
  if (wide) {
    // 16 weights of one block, 8 bytes, a lane and step; the loads of a few steps go first.
    constexpr int AHEAD = M > 4 ? 1 : M > 2 ? 2 : 4, STEP = 512;
    for (int first = lane * 16; first < k; first += AHEAD * STEP) {
      uint2 bytes[AHEAD];
      float scale[AHEAD];
      UNROLL
      for (int u = 0; u < AHEAD; u++) {
        int i = first + u * STEP;
        if (i >= k) break;
        bytes[u] = load_once<uint2>(packed_ + (start + i) / 2);
        scale[u] = scales((start + i) / 64);
      }
      UNROLL
      for (int u = 0; u < AHEAD; u++) {
        int i = first + u * STEP;
        if (i >= k) break;
        UNROLL
        for (int c = 0; c < 16; c += V) {
          float w[V];
          UNROLL
          for (int j = 0; j < V; j++) {
            u32 word = c + j < 8 ? bytes[u].x : bytes[u].y;
            w[j] = rounded<T>(__fmul_rn(code[nibble(word, (c + j) % 8)], scale[u]));
          }
          UNROLL
          for (int r = 0; r < M; r++) {
            if (r >= m) break;
            float v[V];
            unpack(load_raw<uint4>(x + (size_t)r * k + i + c), v);
            UNROLL
            for (int j = 0; j < V; j++) sum[r] += w[j] * v[j];
          }
        }
      }
    }
  } else {
    for (int i = lane; i < k; i += 32) {
      size_t at = start + i;
      u32 byte = packed_[at / 2];
      float w = rounded<T>(__fmul_rn(code[at % 2 ? byte & 15 : byte >> 4], scales(at / 64)));
      UNROLL
      for (int r = 0; r < M; r++)
        if (r < m) sum[r] += w * to_float(x[(size_t)r * k + i]);
    }
  }
}

// y[m, out] = x[m, k] Wᵀ for a few rows of x (m ≤ 8), without W ever written out: the
// products of generation, bound by reading W. Weights are rounded to T first, as the
// matrix above would hold them.
//
// Grid ceil(out/8), block 256: a warp a row of W.
template <class T, int M>
__device__ __forceinline__ void nf4_rows(const u8* packed_, const Nf4Scales& scales,
                                         const float* code, const T* x, T* y, size_t row, int out,
                                         int k, int m) {
  float sum[M];
  UNROLL
  for (int r = 0; r < M; r++) sum[r] = 0.0f;
  nf4_dot<T, M>(packed_, scales, code, x, row, k, m, sum);
  UNROLL
  for (int r = 0; r < M; r++) {
    float total = warp_sum(sum[r]);
    if (r < m && threadIdx.x % 32 == 0) y[(size_t)r * out + row] = from_float<T>(total);
  }
}

template <class T>
__device__ __forceinline__ void nf4_gemv(const u8* packed_, const Nf4Scales& scales, const T* x,
                                         T* y, int out, int k, int m) {
  REQUIRE(blockDim.x == 256 && m <= 8);
  SHARED_ARRAY(float, code, 16);
  load_codes(code);
  size_t row = (size_t)blockIdx.x * 8 + threadIdx.x / 32;
  if (row >= (size_t)out) return;
  if (m == 1)
    nf4_rows<T, 1>(packed_, scales, code, x, y, row, out, k, m);
  else if (m == 2)
    nf4_rows<T, 2>(packed_, scales, code, x, y, row, out, k, m);
  else if (m <= 4)
    nf4_rows<T, 4>(packed_, scales, code, x, y, row, out, k, m);
  else
    nf4_rows<T, 8>(packed_, scales, code, x, y, row, out, k, m);
}

#define KERNEL(T, form)                                                                            \
  extern "C" __global__ void nf4_gemv_##form(                                                      \
      const u8* packed, const u8* codes, const float* nested, const float* map, float offset,      \
      const float* single, const T* x, T* y, int out, int k, int m) {                              \
    nf4_gemv(packed, Nf4Scales{codes, nested, map, offset, single}, x, y, out, k, m);              \
  }
FORMS(KERNEL)
#undef KERNEL
