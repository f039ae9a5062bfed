// What the kernels of our own ask of the processor.
#pragma once

namespace flax_resnet {

inline bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

}  // namespace flax_resnet
