// All kernels in one module. What each computes stands before it in its file; a row
// is one line of a row-major matrix, u64 counts whole tensors, int the rest.
#include "common.cuh"

#include "adamw.cu"
#include "cache.cu"
#include "cast.cu"
#include "gemv.cu"
#include "logprob.cu"
#include "logsigmoid.cu"
#include "lora.cu"
#include "nf4.cu"
#include "norm.cu"
#include "rope.cu"
#include "sample.cu"
#include "softmax.cu"
#include "swiglu.cu"
