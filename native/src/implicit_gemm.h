// One pass of a convolution as an implicit GEMM: matrix products without an im2col buffer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "executor.h"
#include "problem.h"

namespace flax_resnet {

// The most channels in a block of the GEMM's reduction dimension K. Blocks of 320 channels would
// keep a panel in the L1 cache, but each block reads and writes the sums once more. (One image of
// resnet50 takes 64 ms with 1024 and 68 ms with 320.)
constexpr std::int64_t max_block_channels = 1024;

// One pixel of the kernel's window.
struct Tap {
  std::int64_t row, column;   // The source pixel's offset from stride * result pixel.
  std::int64_t kernel_index;  // The index of the tap's matrix in the kernel [h w, C, F].
};

// A block of the reduction dimension K: a range of taps times a range of channels.
struct KBlock {
  std::int64_t first_tap, taps, first_channel, channels;
  std::int64_t offset;  // The index of its first element within K.
};

// A convolution pass as a sum of matrix products, one for each tap of the kernel:
//
//     result[n, y, x, f] = sum over taps and channels c of
//         source[n, y stride + tap.row, x stride + tap.column, c] * matrix(tap)[c, f]
//
// With groups, c runs over the channels of f's own group. The forward pass is one such GEMM, and
// the input gradient is stride^2 of them, one for each phase of the rows and columns.
struct ImplicitGemm {
  const float* source;
  std::int64_t height, width, channels, stride;  // The source's sizes and the stride over it.
  float* result;
  std::int64_t images, rows, columns, features;
  std::int64_t image_step, row_step, column_step;  // Distances within the result, in floats.
  std::vector<Tap> taps;
  bool kernel_is_transposed;  // The kernel is stored as [tap, f, c].
  std::int64_t groups;

  std::int64_t pixels() const { return images * rows * columns; }
  // Splits K: a block holds several whole taps if these have few channels, or a range of the
  // channels of one tap if it has many.
  std::vector<KBlock> k_blocks() const {
    std::vector<KBlock> blocks;
    const auto count = static_cast<std::int64_t>(taps.size());
    const std::int64_t taps_per_block = std::max<std::int64_t>(1, max_block_channels / channels);
    const std::int64_t ranges = ceil_div(channels, max_block_channels);
    std::int64_t offset = 0;
    for (std::int64_t tap = 0; tap < count; tap += taps_per_block) {
      const std::int64_t block_taps = std::min(taps_per_block, count - tap);
      for (std::int64_t range = 0; range < ranges; ++range) {
        const std::int64_t begin = channels * range / ranges, end = channels * (range + 1) / ranges;
        blocks.push_back({tap, block_taps, begin, end - begin, offset});
        offset += block_taps * (end - begin);
      }
    }
    return blocks;
  }
};

// The forward pass as one GEMM.
ImplicitGemm forward_gemm(const Problem& problem, const float* x, float* y);
// The input gradient's phase (row, column): the gradient of the pixels
// (stride * n + row, stride * m + column) of the images.
ImplicitGemm input_gradient_gemm(const Problem& problem, const float* dy, float* dx,
                                 std::int64_t row, std::int64_t column);
// Writes zeros, which are the result of a GEMM without taps.
void zero_result(const ImplicitGemm& gemm, const Executor& executor);

}  // namespace flax_resnet
