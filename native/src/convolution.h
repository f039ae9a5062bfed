// Convolutions and their gradients, each by the algorithm that is fastest for its problem: oneDNN's
// or one of our own.
//
// Every function may be called from any number of threads at once. Arrays are dense, NHWC and HWIO.
// Results never share memory with operands.
#pragma once

#include <cstdint>

#include "epilogue.h"
#include "executor.h"
#include "problem.h"

namespace flax_resnet {

void forward(const Problem& problem, const void* x, const void* kernel, const Epilogue& epilogue,
             void* y, const Executor& executor);
void input_gradient(const Problem& problem, const void* dy, const void* kernel, void* dx,
                    const Executor& executor);
void kernel_gradient(const Problem& problem, const void* x, const void* dy, void* dkernel,
                     const Executor& executor);

// Packed kernels have the layout that the algorithm of this problem reads, so that `forward_packed`
// does not reorder them. These functions return the size of a packed kernel, pack a kernel, and
// convolve with a packed one. `forward_packed` throws InvalidArgument if the kernel was packed on
// another machine or for images whose shape needs another layout.
std::int64_t packed_bytes(const Problem& problem);
void pack(const Problem& problem, const void* kernel, void* packed, const Executor& executor);
void forward_packed(const Problem& problem, const void* x, const void* packed, std::int64_t bytes,
                    const Epilogue& epilogue, void* y, const Executor& executor);

}  // namespace flax_resnet
