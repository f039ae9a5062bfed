// The convolution algorithms of one instruction set.
#pragma once

#include "algorithms.h"

namespace flax_resnet::ISA {

extern const Algorithm grouped, indirect, winograd;
extern const KernelGradientAlgorithm grouped_kernel_gradient, tiled_kernel_gradient,
    winograd_kernel_gradient;

}  // namespace flax_resnet::ISA
