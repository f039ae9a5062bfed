// How the passes of grouped convolutions walk over images: by blocks of channels, by bands of rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "product.h"

namespace flax_resnet {

// Channels in blocks of whole groups: so many that whole lines of memory are read and written.
struct Blocks {
  static constexpr std::int64_t most = 64;  // channels, unless a group has more

  std::int64_t depth;  // channels of a group
  std::int64_t width;  // channels of a block
  std::int64_t count;

  Blocks(std::int64_t channels, std::int64_t groups)
      : depth(channels / groups),
        width(depth * std::gcd(groups, std::max<std::int64_t>(1, most / depth))),
        count(channels / width) {}
};

// The rows and columns of a product's source that some rows of its result need.
struct Window {
  std::int64_t top, left, rows, columns;

  Window(const Product& p, std::int64_t first_row, std::int64_t count) {
    const auto [low, high] = std::minmax_element(
        p.taps.begin(), p.taps.end(), [](const Tap& a, const Tap& b) { return a.row < b.row; });
    const auto [near, far] = std::minmax_element(
        p.taps.begin(), p.taps.end(),
        [](const Tap& a, const Tap& b) { return a.column < b.column; });
    top = first_row * p.stride + low->row;
    left = near->column;
    rows = (count - 1) * p.stride + high->row - low->row + 1;
    columns = (p.columns - 1) * p.stride + far->column - near->column + 1;
  }

  // Its numbers of `width` channels from `channel` on, zeros outside the source.
  void copy(const Product& p, std::int64_t image, std::int64_t channel, std::int64_t width,
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

// Into how many bands to cut the result's rows so that a band's window of a block has about so many
// bytes.
inline std::int64_t bands_of(const Product& p, const Blocks& blocks, std::int64_t bytes) {
  const Window all(p, 0, p.rows);
  const std::int64_t row_bytes =
      all.columns * blocks.width * p.stride * static_cast<std::int64_t>(sizeof(float));
  return std::min(p.rows, ceil_div(p.rows * row_bytes, std::max(bytes, row_bytes)));
}

}  // namespace flax_resnet
