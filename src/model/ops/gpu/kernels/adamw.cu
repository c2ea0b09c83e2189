// The optimizer, in f32: the norm of all gradients, then one pass over each parameter.
#pragma once
#include "common.cuh"

// partial[b] = Σ g² of the values that block b strides over, in f64. The order depends
// on the grid alone, so equal launches give equal bits.
//
// Grid any, block 256.
extern "C" __global__ void sum_squares(const float* g, double* partial, u64 n) {
  REQUIRE(blockDim.x % 32 == 0);
  constexpr int V = WIDTH<float>;
  bool wide = aligned16(g);
  double sum = 0.0;
  for (size_t i = grid_thread() * V; i < n; i += grid_threads() * V) {
    float a[V];
    read(g + i, n - i, wide, a);
    UNROLL
    for (int j = 0; j < V; j++) sum += (double)a[j] * (double)a[j];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// out[0] = Σ partial, in a fixed order.
//
// Grid 1, block 256 (a multiple of 32).
extern "C" __global__ void sum_partials(const double* partial, double* out, int n) {
  REQUIRE(blockDim.x % 32 == 0 && gridDim.x == 1);
  double sum = 0.0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[0] = sum;
}

// With ‖g‖² in square[0], so that the host need not wait for it:
//   g ← g · min(1, max_norm/(‖g‖ + 1e-6)),  m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²,
//   θ ← θ − decay·θ − size·m/(√(root·v) + ε),  size = η/(1−β₁ᵗ), root = 1/(1−β₂ᵗ),
// bit for bit as AdamW::update on the CPU: the same order, every operation rounded.
//
// Grid any, block any (256).
extern "C" __global__ void adamw(float* theta, const float* g, float* m, float* v,
                                 const double* square, float max_norm, float b1, float b2,
                                 float size, float root, float eps, float decay, u64 n) {
  constexpr int V = WIDTH<float>;
  float clip = (float)fmin((double)max_norm / (sqrt(square[0]) + 1e-6), 1.0);
  float c1 = __fsub_rn(1.0f, b1), c2 = __fsub_rn(1.0f, b2);
  bool wide = aligned16(theta) && aligned16(g) && aligned16(m) && aligned16(v);
  for (size_t i = grid_thread() * V; i < n; i += grid_threads() * V) {
    size_t left = n - i;
    float t[V], d[V], first[V], second[V];
    read(theta + i, left, wide, t);
    read(g + i, left, wide, d);
    read(m + i, left, wide, first);
    read(v + i, left, wide, second);
    UNROLL
    for (int j = 0; j < V; j++) {
      float x = __fmul_rn(d[j], clip);
      first[j] = __fadd_rn(__fmul_rn(b1, first[j]), __fmul_rn(c1, x));
      second[j] = __fadd_rn(__fmul_rn(b2, second[j]), __fmul_rn(__fmul_rn(c2, x), x));
      float below = __fadd_rn(__fsqrt_rn(__fmul_rn(second[j], root)), eps);
      float kept = __fsub_rn(t[j], __fmul_rn(t[j], decay));
      t[j] = __fsub_rn(kept, __fdiv_rn(__fmul_rn(size, first[j]), below));
    }
    write(theta + i, left, wide, t);
    write(m + i, left, wide, first);
    write(v + i, left, wide, second);
  }
}
