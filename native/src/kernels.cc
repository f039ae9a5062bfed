#include "kernels.h"

#include "oneapi/dnnl/dnnl.hpp"
#include "problem.h"

namespace flax_resnet {

namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
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

const std::vector<const Kernels*>& all_kernels() {
  static const std::vector<const Kernels*> all = [] {
    std::vector<const Kernels*> found;
    if (has_avx512()) found.push_back(&avx512::kernels);
    if (has_avx2()) found.push_back(&avx2::kernels);
    return found;
  }();
  return all;
}

const Kernels* kernels() { return all_kernels().empty() ? nullptr : all_kernels().front(); }

const Kernels& required_kernels() {
  if (kernels() == nullptr) {
    throw InvalidArgument("batch normalisation and max-pool need a processor with AVX2 and FMA");
  }
  return *kernels();
}

}  // namespace flax_resnet
