#include "instruction_set.h"

#include "oneapi/dnnl/dnnl.hpp"
#include "problem.h"

namespace flax_resnet {

namespace avx2 {
extern const InstructionSet table;
}
namespace avx512 {
extern const InstructionSet table;
}

namespace {

bool has_avx2() {
  return dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx2 && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("fma");
}

bool has_avx512() {
#ifdef EMULATE_AVX512
  return has_avx2();
#else
  return has_avx2() && dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core &&
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
}

}  // namespace

const std::vector<const InstructionSet*>& instruction_sets() {
  static const std::vector<const InstructionSet*> all = [] {
    std::vector<const InstructionSet*> found;
    if (has_avx512()) found.push_back(&avx512::table);
    if (has_avx2()) found.push_back(&avx2::table);
    return found;
  }();
  return all;
}

const InstructionSet* instruction_set() {
  return instruction_sets().empty() ? nullptr : instruction_sets().front();
}

const InstructionSet& required_instruction_set() {
  if (instruction_set() == nullptr) {
    throw InvalidArgument("batch normalisation and max-pool need a processor with AVX2 and FMA");
  }
  return *instruction_set();
}

}  // namespace flax_resnet
