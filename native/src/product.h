// What our own kernels compute: a pass of a convolution, as products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "executor.h"
#include "problem.h"

namespace flax_resnet {

// Sums of a tile stay in registers: so many pixels by so many features.
constexpr std::int64_t tile_rows = 6, tile_columns = 16;
// Channels of a block of the sum. Panels of 320 would stay in the first-level cache, but each block reads
// and writes the sums once more (one image of resnet50: 64 ms, not 68).
constexpr std::int64_t block_depth = 1024;

struct Tap {
  std::int64_t row, column;  // of the source's pixel, from the result's times the stride
  std::int64_t kernel;       // index of its matrix in the kernel [h w, C, F]
};

struct Block {
  std::int64_t first_tap, taps, first_channel, channels, depth_before;
};

// result[n, y, x, f] = sum over taps and channels of source[n, y stride + row, x stride + column, c]
// times the tap's matrix [c, f]. With groups, over those of the feature's own group.
struct Product {
  const float* source;
  std::int64_t height, width, channels, stride;  // of the source
  float* result;
  std::int64_t images, rows, columns, features;
  std::int64_t image_step, row_step, column_step;  // of the result, in numbers
  std::vector<Tap> taps;
  bool transposed;  // the kernel is [tap, f, c]
  std::int64_t groups;

  std::int64_t pixels() const { return images * rows * columns; }
  std::int64_t panels() const { return ceil_div(features, tile_columns); }
  std::int64_t packed_size() const {
    return static_cast<std::int64_t>(taps.size()) * channels * panels() * tile_columns;
  }
  // Whole taps together where they are thin, parts of one where they are thick.
  std::vector<Block> blocks() const {
    std::vector<Block> all;
    const auto count = static_cast<std::int64_t>(taps.size());
    const std::int64_t together = std::max<std::int64_t>(1, block_depth / channels);
    const std::int64_t cuts = ceil_div(channels, block_depth);
    std::int64_t depth = 0;
    for (std::int64_t tap = 0; tap < count; tap += together) {
      const std::int64_t taps_here = std::min(together, count - tap);
      for (std::int64_t cut = 0; cut < cuts; ++cut) {
        const std::int64_t begin = channels * cut / cuts, end = channels * (cut + 1) / cuts;
        all.push_back({tap, taps_here, begin, end - begin, depth});
        depth += taps_here * (end - begin);
      }
    }
    return all;
  }
};

Product forward_product(const Problem& problem, const float* x, float* y);
// The phase (row, column) of the input gradient: pixels (s n + row, s m + column) of the images.
Product gradient_product(const Problem& problem, const float* dy, float* dx, std::int64_t row,
                         std::int64_t column);
// The result of a product without taps: zeros.
void clear(const Product& product, const Executor& executor);

}  // namespace flax_resnet
