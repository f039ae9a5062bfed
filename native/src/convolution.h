// Convolutions and their gradients, each in the best way there is: by oneDNN or by kernels of our own.
//
// Every function may be called from any number of threads at once. Arrays are dense, NHWC and HWIO;
// results never share memory with operands.
#pragma once

#include <cstdint>

#include "executor.h"
#include "problem.h"
#include "ways.h"

namespace flax_resnet {

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
void pack(const Problem& problem, const void* kernel, void* packed, const Executor& executor);
void forward_packed(const Problem& problem, const void* x, const void* packed, std::int64_t bytes,
                    const Epilogue& epilogue, void* y, const Executor& executor);

}  // namespace flax_resnet
