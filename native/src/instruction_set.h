// The functions that are compiled once for each instruction set, and the choice of the set.
#pragma once

#include <vector>

#include "algorithms.h"
#include "normalization.h"
#include "pooling.h"

namespace flax_resnet {

struct InstructionSet {
  const char* name;  // "avx2" (with FMA) or "avx512" (F, BW, DQ and VL).
  bool is_measured;  // See tuning.h.
  // The first algorithm that is supported and profitable is chosen.
  const Algorithm* algorithms[3];
  const KernelGradientAlgorithm* kernel_gradient_algorithms[3];
  const Normalization& normalization;
  const Pooling& pooling;
};

// The instruction sets that this processor has, the widest first. oneDNN's variable
// ONEDNN_MAX_CPU_ISA limits them, as it does oneDNN itself.
const std::vector<const InstructionSet*>& instruction_sets();

// The widest instruction set, or null if this processor has none.
const InstructionSet* instruction_set();

// The same, for functions that have no other implementation. Throws InvalidArgument instead.
const InstructionSet& required_instruction_set();

}  // namespace flax_resnet
