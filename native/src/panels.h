// How the kernels of indirect.cc want the convolution's kernel: in panels of 16 features.
#pragma once

#include <cstdint>
#include <cstring>

#include "executor.h"
#include "product.h"

namespace flax_resnet {

// At most 16 numbers. (A copy of so many as the compiler knows is two instructions, another a call.)
inline void copy_columns(const float* from, std::int64_t count, float* to) {
  if (count == tile_columns) {
    std::memcpy(to, from, tile_columns * sizeof(float));
  } else {
    std::memcpy(to, from, count * sizeof(float));
  }
}

// Eight rows of eight numbers, `from` apart by `step`, become columns: to[16 k + i].
void transpose(const float* from, std::int64_t step, float* to);

// So many panels of a block of the kernel: [panel][tap, channel][16 features].
void pack_block(const Product& product, const Block& block, std::int64_t first_panel,
                std::int64_t panels, const float* kernel, float* packed);

// The kernel [h w, C, F] as [block][panel][tap, channel][16 features], zeros after the last feature.
void pack_panels(const Product& product, const float* kernel, float* packed,
                 const Executor& executor);

}  // namespace flax_resnet
