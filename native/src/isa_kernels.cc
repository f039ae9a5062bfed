// The table of kernels (kernels.h) of one instruction set.
#include "isa_algorithms.h"
#include "kernels.h"

namespace flax_resnet::ISA {

extern const Normalization normalization;
extern const Pooling pooling;
extern const Kernels kernels;

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

const Kernels kernels{
    TEXT(ISA),
    {&grouped, &winograd, &indirect},
    {&grouped_kernel_gradient, &winograd_kernel_gradient, &tiled_kernel_gradient},
    normalization,
    pooling};

}  // namespace flax_resnet::ISA
