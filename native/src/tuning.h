// The sizes and choices that differ between the instruction sets.
#pragma once

#include <cstdint>

#include "vector.h"

namespace flax_resnet::ISA {

struct Tuning {
  // Whether our algorithms were measured against oneDNN's. Where they were not, oneDNN's count as
  // the fastest.
  bool is_measured;
  // Convolutions with fewer weights are left to oneDNN by indirect convolution.
  std::int64_t min_indirect_kernel, min_indirect_pointwise_kernel;
  // Kernel gradients of 1x1 kernels on larger feature maps are left to oneDNN, in pixels.
  std::int64_t max_pointwise_gradient_pixels;
  // The panels of features whose Winograd products are computed before they are transformed back.
  std::int64_t winograd_panels;
  // Tiles between which the prefetch of the next panel is divided: as many as one 7x7 map has in
  // indirect convolution, and one 14x14 map in Winograd.
  int indirect_steps_per_line, winograd_steps_per_line;
  // Channels of a register tile of kernel gradients, and pixels of one of grouped convolutions.
  int gradient_channels, grouped_pixels;
};

// One image of resnet50 takes 73 ms on AVX2 with a limit of 16 Ki weights, 82 with 64 Ki and 92
// with 256 Ki.
constexpr Tuning tuning = lanes == 8 ? Tuning{true, 16 * 1024, 16 * 1024, 28 * 28, 4, 8, 4, 6, 6}
                                     : Tuning{false, 16 * 1024, 16 * 1024, 28 * 28, 2, 4, 2, 8, 8};

}  // namespace flax_resnet::ISA
