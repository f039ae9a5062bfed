// The processor features that our own algorithms need.
#pragma once

namespace flax_resnet {

inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace flax_resnet
