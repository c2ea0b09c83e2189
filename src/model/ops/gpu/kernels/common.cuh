// What all kernels share: types, conversions, 16-byte access, reductions.
//
// The sources compile with nvcc, and with g++ after emulator.h, which stands in for
// CUDA's built-ins. Three rules keep both the same:
//   * shared memory is declared by SHARED (dynamic) or SHARED_ARRAY (of fixed size);
//   * a kernel states what it expects of its launch by REQUIRE, first thing;
//   * warps are whole: a kernel that reduces wants blocks of a multiple of 32;
//   * blocks of more than 256 threads need __launch_bounds__: a thread may take so many
//     registers elsewhere that they would not fit.
//
// Numbers are stored as T (float or bfloat16) and computed in f32; a result is
// rounded once, when it is stored. Where a kernel promises the bits of the CPU code,
// it uses __fmul_rn and its like, which the compiler must not fuse into one rounding.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#define UNROLL _Pragma("unroll")
#define UNROLL_BY(n) _Pragma(UNROLL_TEXT(unroll n))
#define UNROLL_TEXT(words) #words
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]
// One module has one dynamic array, whatever type a kernel sees it as.
#define SHARED(type, name)                                                     \
  extern __shared__ __align__(16) unsigned char dynamic_shared[];              \
  type* const name = reinterpret_cast<type*>(dynamic_shared)
// A launch of the wrong shape would write wrong numbers silently: stop instead.
#define REQUIRE(condition)                                                     \
  do {                                                                         \
    if (!(condition)) __trap();                                                \
  } while (0)
#endif

using u8 = unsigned char;
using u32 = unsigned;
using u64 = unsigned long long;
using bf16 = __nv_bfloat16;

// Every kernel NAME has two forms, NAME_f32 and NAME_bf16: FORMS(K) expands K(T, form).
#define FORMS(K) K(float, f32) K(bf16, bf16)

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// x as it reads after a store as T.
template <class T> __device__ __forceinline__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

// This thread and all threads of a 1-D grid, for loops that stride over the grid.
__device__ __forceinline__ size_t grid_thread() {
  return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ size_t grid_threads() { return (size_t)gridDim.x * blockDim.x; }

// ---- 16 bytes at once -----------------------------------------------------------

// Values of T in 16 bytes, the widest access of a thread.
template <class T> constexpr int WIDTH = 16 / sizeof(T);

// Rows of odd widths and views of tensors start anywhere: checked at run time.
__device__ __forceinline__ bool aligned16(const void* p) {
  return (reinterpret_cast<size_t>(p) & 15) == 0;
}

// One access of sizeof(R) bytes; p must be aligned to it.
template <class R> __device__ __forceinline__ R load_raw(const void* p) {
#ifdef __CUDACC__
  return *reinterpret_cast<const R*>(p);
#else
  R r;
  memcpy(&r, p, sizeof r);
  return r;
#endif
}
// The same for what is read once: it makes room first, and so leaves what is read again
// (the activations that weights are multiplied with) in the cache.
template <class R> __device__ __forceinline__ R load_once(const void* p) {
#ifdef __CUDACC__
  return __ldcs(reinterpret_cast<const R*>(p));
#else
  return load_raw<R>(p);
#endif
}
template <class R> __device__ __forceinline__ void store_raw(void* p, R r) {
#ifdef __CUDACC__
  *reinterpret_cast<R*>(p) = r;
#else
  memcpy(p, &r, sizeof r);
#endif
}

// Two bfloat16 of one word, the first in the low half: they are the high halves of f32.
__device__ __forceinline__ float low_bf16(u32 w) { return __uint_as_float(w << 16); }
__device__ __forceinline__ float high_bf16(u32 w) { return __uint_as_float(w & 0xffff0000u); }
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
#ifdef __CUDACC__
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high); // one instruction
  return *reinterpret_cast<u32*>(&pair);
#else
  return __bfloat16_as_ushort(from_float<bf16>(low)) |
         (u32)__bfloat16_as_ushort(from_float<bf16>(high)) << 16;
#endif
}

__device__ __forceinline__ void unpack(uint4 raw, float (&v)[4]) {
  v[0] = __uint_as_float(raw.x), v[1] = __uint_as_float(raw.y);
  v[2] = __uint_as_float(raw.z), v[3] = __uint_as_float(raw.w);
}
__device__ __forceinline__ void unpack(uint4 raw, float (&v)[8]) {
  v[0] = low_bf16(raw.x), v[1] = high_bf16(raw.x);
  v[2] = low_bf16(raw.y), v[3] = high_bf16(raw.y);
  v[4] = low_bf16(raw.z), v[5] = high_bf16(raw.z);
  v[6] = low_bf16(raw.w), v[7] = high_bf16(raw.w);
}
__device__ __forceinline__ uint4 packed(const float (&v)[4]) {
  return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                    __float_as_uint(v[3]));
}
__device__ __forceinline__ uint4 packed(const float (&v)[8]) {
  return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                    pack_bf16(v[6], v[7]));
}

// The next WIDTH values at p, of which `left` exist; the others read as 0. `wide`
// says that p is aligned.
template <class T>
__device__ __forceinline__ void read(const T* p, size_t left, bool wide, float (&v)[WIDTH<T>]) {
  if (wide && left >= WIDTH<T>) {
    unpack(load_raw<uint4>(p), v);
  } else {
    UNROLL
    for (int j = 0; j < WIDTH<T>; j++) v[j] = (size_t)j < left ? to_float(p[j]) : 0.0f;
  }
}

template <class T>
__device__ __forceinline__ void write(T* p, size_t left, bool wide, const float (&v)[WIDTH<T>]) {
  if (wide && left >= WIDTH<T>) {
    store_raw(p, packed(v));
  } else {
    UNROLL
    for (int j = 0; j < WIDTH<T>; j++)
      if ((size_t)j < left) p[j] = from_float<T>(v[j]);
  }
}

// The same for four values that were read as f32: p is aligned to four T.
__device__ __forceinline__ void store_four(float* p, const float (&v)[4]) {
  store_raw(p, packed(v));
}
__device__ __forceinline__ void store_four(bf16* p, const float (&v)[4]) {
  store_raw(p, make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])));
}
template <class T>
__device__ __forceinline__ void write_four(T* p, size_t left, bool wide, const float (&v)[4]) {
  if (wide && left >= 4) {
    store_four(p, v);
  } else {
    UNROLL
    for (int j = 0; j < 4; j++)
      if ((size_t)j < left) p[j] = from_float<T>(v[j]);
  }
}

// ---- reductions -----------------------------------------------------------------

constexpr u32 WARP = 0xffffffffu;

// The sum over a warp, in every lane: a butterfly, the same order in each run.
template <class N> __device__ __forceinline__ N warp_sum(N v) {
  UNROLL
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(WARP, v, o);
  return v;
}

// The sum over a block, in every thread.
template <class N> __device__ __forceinline__ N block_sum(N v) {
  SHARED_ARRAY(N, of_warp, 32);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  v = warp_sum(v);
  __syncthreads(); // the last reduction has been read
  if (lane == 0) of_warp[warp] = v;
  __syncthreads();
  return warp_sum(lane < warps ? of_warp[lane] : N(0));
}

// Running Σ e^x as e^top · total, in one pass: `top` grows as larger x come by.
struct LogSum {
  float top, total;
  __device__ __forceinline__ void add(float x) {
    if (x > top) {
      total = total * expf(top - x) + 1.0f;
      top = x;
    } else if (x != -INFINITY) { // a NaN gets in
      total += expf(x - top);
    }
  }
  __device__ __forceinline__ void merge(LogSum o) {
    float t = fmaxf(top, o.top);
    if (t == -INFINITY) { // both are empty
      total += o.total;
    } else {
      total = total * expf(top - t) + o.total * expf(o.top - t);
      top = t;
    }
  }
};

__device__ __forceinline__ LogSum warp_log_sum(LogSum s) {
  UNROLL
  for (int o = 16; o > 0; o >>= 1) {
    LogSum other;
    other.top = __shfl_xor_sync(WARP, s.top, o);
    other.total = __shfl_xor_sync(WARP, s.total, o);
    s.merge(other);
  }
  return s;
}

__device__ __forceinline__ LogSum block_log_sum(LogSum s) {
  SHARED_ARRAY(float, top_of_warp, 32);
  SHARED_ARRAY(float, total_of_warp, 32);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  s = warp_log_sum(s);
  __syncthreads();
  if (lane == 0) top_of_warp[warp] = s.top, total_of_warp[warp] = s.total;
  __syncthreads();
  bool any = lane < warps;
  s.top = any ? top_of_warp[lane] : -INFINITY;
  s.total = any ? total_of_warp[lane] : 0.0f;
  return warp_log_sum(s);
}
