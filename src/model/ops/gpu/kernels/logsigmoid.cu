// y = log σ(x) = min(x, 0) − log(1 + e^−|x|), and dx = g · σ(−x), in f32.
//
// Grid any, block any (256): a value a thread.
#pragma once
#include "common.cuh"

extern "C" __global__ void log_sigmoid_forward(const float* x, float* y, u64 n) {
  for (size_t i = grid_thread(); i < n; i += grid_threads())
    y[i] = fminf(x[i], 0.0f) - log1pf(expf(-fabsf(x[i])));
}

extern "C" __global__ void log_sigmoid_backward(const float* x, const float* g, float* dx, u64 n) {
  for (size_t i = grid_thread(); i < n; i += grid_threads()) dx[i] = g[i] / (1.0f + expf(x[i]));
}
