// Packs the convolution's kernel into panels of NR features, which the microkernel reads.
#pragma once

#include <cstdint>
#include <cstring>

#include "executor.h"
#include "implicit_gemm.h"
#include "vector.h"

namespace flax_resnet::ISA {

inline std::int64_t panel_count(const ImplicitGemm& gemm) { return ceil_div(gemm.features, nr); }

// Copies at most NR floats. (A memcpy of a constant size is two instructions, any other one is a
// call.)
inline void copy_row(const float* from, std::int64_t count, float* to) {
  if (count == nr) {
    std::memcpy(to, from, nr * sizeof(float));
  } else {
    std::memcpy(to, from, count * sizeof(float));
  }
}

// Transposes an 8x8 block. Its rows are `step` floats apart in `from` and become columns of `to`,
// whose rows are NR floats apart.
void transpose(const float* from, std::int64_t step, float* to);

// Packs some panels of one block of K as [panel][tap, channel][NR features].
void pack_block(const ImplicitGemm& gemm, const KBlock& block, std::int64_t first_panel,
                std::int64_t panels, const float* kernel, float* packed);

// Packs the kernel [h w, C, F] as [block][panel][tap, channel][NR features], with zeros after the
// last feature.
void pack_panels(const ImplicitGemm& gemm, const float* kernel, float* packed,
                 const Executor& executor);

}  // namespace flax_resnet::ISA
