// Max-pool of float32 images and its gradient, on processors of which has_avx2 (processor.h) is true.
#pragma once

#include <cstdint>

#include "executor.h"

namespace flax_resnet {

// Images [images, height, width, channels] to [images, out_height, out_width, channels].
struct Pool {
  std::int64_t images, height, width, channels, out_height, out_width;
  std::int64_t window, stride, padding;  // window at most 15
};

// Each window's maximum and, where `places` is not null, where it lies: window * row + column of the
// first, row by row. A NaN counts as the largest.
void max_pool(const Pool& pool, const float* x, float* y, std::uint8_t* places,
              const Executor& executor);

// The gradient of the images: each window's goes to the place of its maximum.
void max_pool_gradient(const Pool& pool, const float* dy, const std::uint8_t* places, float* dx,
                       const Executor& executor);

}  // namespace flax_resnet
