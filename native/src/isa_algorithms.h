// The convolution algorithms of the instruction set that a file is compiled for.
#pragma once

#include "algorithms.h"

namespace flax_resnet::ISA {

extern const Algorithm grouped, indirect, winograd;
extern const KernelGradientAlgorithm grouped_kernel_gradient, tiled_kernel_gradient,
    winograd_kernel_gradient;

}  // namespace flax_resnet::ISA
