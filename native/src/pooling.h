// Max-pool of float32 images and its gradient.
#pragma once

#include <cstdint>

#include "executor.h"

namespace flax_resnet {

// Images [images, height, width, channels] to [images, out_height, out_width, channels].
struct Pool {
  std::int64_t images, height, width, channels, out_height, out_width;
  std::int64_t window, stride, padding;  // The window is at most 15.
};

// Both passes, compiled for one instruction set.
struct Pooling {
  // Computes each window's maximum and, if `indices` is not null, its index within the window,
  // window * row + column. Of equal maxima the first in row-major order counts. A NaN is the
  // largest value.
  void (*max_pool)(const Pool& pool, const float* x, float* y, std::uint8_t* indices,
                   const Executor& executor);
  // Computes the gradient of the images: the gradient of each window is added at the index of its
  // maximum.
  void (*gradient)(const Pool& pool, const float* dy, const std::uint8_t* indices, float* dx,
                   const Executor& executor);
};

}  // namespace flax_resnet
