// The table of one instruction set (instruction_set.h).
#include "instruction_set.h"
#include "isa_algorithms.h"
#include "tuning.h"

namespace flax_resnet::ISA {

extern const Normalization normalization;
extern const Pooling pooling;
extern const InstructionSet table;

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

const InstructionSet table{
    TEXT(ISA),
    tuning.is_measured,
    {&grouped, &winograd, &indirect},
    {&grouped_kernel_gradient, &winograd_kernel_gradient, &tiled_kernel_gradient},
    normalization,
    pooling};

}  // namespace flax_resnet::ISA
