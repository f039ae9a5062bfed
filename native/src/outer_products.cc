#include "outer_products.h"

namespace flax_resnet::ISA {
namespace {

constexpr std::int64_t max_channels = 64, max_features = 64;  // The largest block.
// This many values of i of a panel of both operands stay in the L1 cache.
constexpr std::int64_t l1_count = 192;
// A chunk takes as many bytes as all sums do, but at least this many.
constexpr std::int64_t min_chunk_bytes = 2 * 1024 * 1024;

// Returns the largest divisor of `size` that is a multiple of 16 and at most `most`.
std::int64_t largest_divisor(std::int64_t size, std::int64_t most) {
  std::int64_t divisor = std::max(panel_channels, most / panel_channels * panel_channels);
  while (size % divisor != 0) divisor -= panel_channels;
  return divisor;
}

// Adds the outer products of `count` rows of x and y to sums [rows, 16], or with `set` overwrites
// them.
template <int rows>
SIMD void add_outer_products(const float* x, const float* y, std::int64_t count, float* sums,
                             std::int64_t sums_step, bool set) {
  constexpr bool has_two = panel_channels == 2 * lanes;  // Whether a panel is two vectors wide.
  Vector acc[rows][has_two ? 2 : 1];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
    acc[i][0] = set ? zero() : load(sums + i * sums_step);
    if constexpr (has_two) acc[i][1] = set ? zero() : load(sums + i * sums_step + lanes);
  }
  for (std::int64_t k = 0; k < count; ++k, x += panel_channels, y += panel_channels) {
    const Vector low = load(y), high = has_two ? load(y + lanes) : low;
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const Vector value = broadcast(x + i);
      acc[i][0] = fmadd(value, low, acc[i][0]);
      if constexpr (has_two) acc[i][1] = fmadd(value, high, acc[i][1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
    store(sums + i * sums_step, acc[i][0]);
    if constexpr (has_two) store(sums + i * sums_step + lanes, acc[i][1]);
  }
}

}  // namespace

SumBlocks::SumBlocks(std::int64_t points, std::int64_t all_channels, std::int64_t all_features,
                     std::int64_t threads)
    : points(points),
      channels(largest_divisor(all_channels, max_channels)),
      features(largest_divisor(all_features, max_features)) {
  // Make blocks narrower until there are enough for all threads.
  while (all_channels / channels * (all_features / features) < threads &&
         channels > panel_channels) {
    channels = largest_divisor(all_channels, channels / 2);
  }
  block_rows = all_channels / channels;
  block_columns = all_features / features;
}

void add_block(const SumBlocks& blocks, const PackedChunk& x, const PackedChunk& y,
               std::int64_t count, std::int64_t block, bool set, float* sums) {
  const std::int64_t block_row = block / blocks.block_columns,
                     block_column = block % blocks.block_columns;
  const std::int64_t first_x = block_row * blocks.channels / panel_channels;
  const std::int64_t first_y = block_column * blocks.features / panel_channels;
  for (std::int64_t k = 0; k < blocks.points; ++k) {
    float* const point_sums = sums + k * blocks.channels * blocks.features;
    for (std::int64_t begin = 0; begin < count; begin += l1_count) {
      const std::int64_t count_here = std::min(l1_count, count - begin);
      for (std::int64_t f = 0; f < blocks.features; f += panel_channels) {
        const float* const b = y.at(first_y + f / panel_channels, k, begin);
        for (std::int64_t c = 0; c < blocks.channels; c += panel_channels) {
          const float* const a = x.at(first_x + c / panel_channels, k, begin);
          float* const to = point_sums + c * blocks.features + f;
          const bool starts_at_zero = set && begin == 0;
          // The registers of AVX-512 hold the sums of 16 channels, those of AVX2 of a third of
          // them.
          if constexpr (lanes == 16) {
            add_outer_products<16>(a, b, count_here, to, blocks.features, starts_at_zero);
          } else {
            add_outer_products<6>(a, b, count_here, to, blocks.features, starts_at_zero);
            add_outer_products<5>(a + 6, b, count_here, to + 6 * blocks.features, blocks.features,
                                  starts_at_zero);
            add_outer_products<5>(a + 11, b, count_here, to + 11 * blocks.features, blocks.features,
                                  starts_at_zero);
          }
        }
      }
    }
  }
}

std::int64_t chunk_size(const SumBlocks& blocks, std::int64_t count) {
  constexpr std::int64_t float_bytes = sizeof(float);
  const std::int64_t bytes =
      std::max(min_chunk_bytes, blocks.count() * blocks.size() * float_bytes);
  const std::int64_t bytes_per_index =
      blocks.points * float_bytes *
      (blocks.block_rows * blocks.channels + blocks.block_columns * blocks.features);
  return ceil_div(count, std::max<std::int64_t>(1, count * bytes_per_index / bytes));
}

}  // namespace flax_resnet::ISA
