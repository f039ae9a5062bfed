// Convolutions and their gradients by oneDNN (and, where that is slow, by kernels of our own).
//
// Every function may be called from any number of threads at once. Arrays are dense, NHWC and HWIO;
// results never share memory with operands.
#pragma once

#include <cstdint>

#include "executor.h"
#include "problem.h"

namespace flax_resnet {

// What follows the sum of products: y = relu(conv + bias + residual), each where it is given.
struct Epilogue {
  const void* bias = nullptr;      // [F], of the problem's dtype
  const void* residual = nullptr;  // like the result
  bool relu = false;
};

// Whether this processor has fast convolutions in bfloat16.
bool bf16_is_fast();

void forward(const Problem& problem, const void* x, const void* kernel, const Epilogue& epilogue,
             void* y, const Executor& executor);
void input_gradient(const Problem& problem, const void* dy, const void* kernel, void* dx,
                    const Executor& executor);
void kernel_gradient(const Problem& problem, const void* x, const void* dy, void* dkernel,
                     const Executor& executor);

// A kernel laid out as `forward` of this problem wants it, so that nothing is left to rearrange:
// its size in bytes, making one, and using it. One that was made on another machine or for images
// of a shape that wants another layout is refused.
std::int64_t packed_bytes(const Problem& problem);
void pack(const Problem& problem, const void* kernel, void* packed);
void forward_packed(const Problem& problem, const void* x, const void* packed, std::int64_t bytes,
                    const Epilogue& epilogue, void* y, const Executor& executor);

// Whether this is a processor for kernels of our own: with AVX2 and FMA. Those with AVX-512 have
// better ones in oneDNN.
bool own_kernels_suit();

// Whether those of indirect.cc and kernel_gradient.cc can compute a problem: float32, dense.
bool own_kernels_can(const Problem& problem);

// Convolution and input gradient by them: whether that is the better way. The kernel is packed for
// the forward pass beforehand, for images of any shape.
bool indirect_applies(const Problem& problem);
std::int64_t indirect_packed_bytes(const Problem& problem);
void indirect_pack(const Problem& problem, const float* kernel, float* packed,
                   const Executor& executor);
void indirect_forward(const Problem& problem, const float* x, const float* packed,
                      const Epilogue& epilogue, float* y, const Executor& executor);
void indirect_input_gradient(const Problem& problem, const float* dy, const float* kernel,
                             float* dx, const Executor& executor);

// Grouped convolution and its input gradient, of groups as wide as ResNeXt's.
bool grouped_applies(const Problem& problem);
void grouped_forward(const Problem& problem, const float* x, const float* kernel,
                     const Epilogue& epilogue, float* y, const Executor& executor);
void grouped_input_gradient(const Problem& problem, const float* dy, const float* kernel,
                            float* dx, const Executor& executor);

// And its kernel gradient, where that is 3x3.
bool grouped_gradient_applies(const Problem& problem);
void grouped_kernel_gradient(const Problem& problem, const float* x, const float* dy,
                             float* dkernel, const Executor& executor);

// Kernel gradient of dense ones; false: oneDNN's, because they cannot or it is the better way.
bool kernel_gradient_applies(const Problem& problem);
void own_kernel_gradient(const Problem& problem, const float* x, const float* dy, float* dkernel,
                         const Executor& executor);

}  // namespace flax_resnet
