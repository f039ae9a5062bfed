// How grouped convolutions are split: into blocks of whole groups and bands of rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "implicit_gemm.h"

namespace flax_resnet {

// Blocks of channels that hold whole groups, and enough of them to read and write whole cache
// lines.
struct ChannelBlocks {
  // The most channels of a block, unless one group has more.
  static constexpr std::int64_t max_width = 64;

  std::int64_t depth;  // Channels of a group.
  std::int64_t width;  // Channels of a block.
  std::int64_t count;

  ChannelBlocks(std::int64_t channels, std::int64_t groups)
      : depth(channels / groups),
        width(depth * std::gcd(groups, std::max<std::int64_t>(1, max_width / depth))),
        count(channels / width) {}
};

// The rows and columns of a GEMM's source that a band of rows of its result needs.
struct SourceWindow {
  std::int64_t top, left, rows, columns;

  SourceWindow(const ImplicitGemm& p, std::int64_t first_row, std::int64_t count) {
    const auto [top_tap, bottom_tap] = std::minmax_element(
        p.taps.begin(), p.taps.end(), [](const Tap& a, const Tap& b) { return a.row < b.row; });
    const auto [left_tap, right_tap] =
        std::minmax_element(p.taps.begin(), p.taps.end(),
                            [](const Tap& a, const Tap& b) { return a.column < b.column; });
    top = first_row * p.stride + top_tap->row;
    left = left_tap->column;
    rows = (count - 1) * p.stride + bottom_tap->row - top_tap->row + 1;
    columns = (p.columns - 1) * p.stride + right_tap->column - left_tap->column + 1;
  }

  // Copies `width` channels from `channel` on, with zeros outside the source.
  void copy(const ImplicitGemm& p, std::int64_t image, std::int64_t channel, std::int64_t width,
            float* to) const {
    const float* const source = p.source + image * p.height * p.width * p.channels + channel;
    const std::int64_t before = std::max<std::int64_t>(0, -left);
    const std::int64_t after = std::max<std::int64_t>(0, left + columns - p.width);
    const std::int64_t bytes = width * static_cast<std::int64_t>(sizeof(float));
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t row = top + i;
      if (row < 0 || row >= p.height || before + after >= columns) {
        std::memset(to, 0, columns * bytes);
        to += columns * width;
        continue;
      }
      std::memset(to, 0, before * bytes);
      to += before * width;
      const float* from = source + (row * p.width + left + before) * p.channels;
      for (std::int64_t j = before; j < columns - after; ++j) {
        std::memcpy(to, from, bytes);
        to += width;
        from += p.channels;
      }
      std::memset(to, 0, after * bytes);
      to += after * width;
    }
  }
};

// Returns how many bands of rows to split the result into, so that the source window of a band and
// a block has about this many bytes.
inline std::int64_t band_count(const ImplicitGemm& p, const ChannelBlocks& blocks,
                               std::int64_t bytes) {
  const SourceWindow all(p, 0, p.rows);
  const std::int64_t row_bytes =
      all.columns * blocks.width * p.stride * static_cast<std::int64_t>(sizeof(float));
  return std::min(p.rows, ceil_div(p.rows * row_bytes, std::max(bytes, row_bytes)));
}

}  // namespace flax_resnet
