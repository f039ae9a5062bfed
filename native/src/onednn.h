// Convolutions and their gradients by oneDNN, for any problem and processor.
#pragma once

#include <cstddef>
#include <cstdint>

#include "algorithms.h"
#include "executor.h"
#include "problem.h"

namespace flax_resnet {

// Whether this processor has fast convolutions in bfloat16.
bool bf16_is_fast();

namespace onednn {

void forward(const Problem& problem, const void* x, const void* kernel, const Epilogue& epilogue,
             void* y, const Executor& executor);
void input_gradient(const Problem& problem, const void* dy, const void* kernel, void* dx,
                    const Executor& executor);
void kernel_gradient(const Problem& problem, const void* x, const void* dy, void* dkernel,
                     const Executor& executor);

// A packed kernel has the layout that oneDNN prefers for half of the problem, and slices of other
// sizes use it too. The layout for a whole image may be slow for its slices (resnet50's 1x1 kernels
// of 256 features take three times as long).
std::int64_t packed_bytes(const Problem& problem);
std::size_t layout_hash(const Problem& problem);
void pack(const Problem& problem, const void* kernel, void* packed);
void forward_packed(const Problem& problem, const void* x, const void* packed,
                    const Epilogue& epilogue, void* y, const Executor& executor);

}  // namespace onednn
}  // namespace flax_resnet
