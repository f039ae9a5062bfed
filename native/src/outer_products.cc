#include "outer_products.h"

#include <immintrin.h>

namespace flax_resnet {
namespace {

constexpr std::int64_t most_channels = 64, most_features = 64;  // of a block
// So many i of a panel of both operands stay in the first-level cache.
constexpr std::int64_t together = 192;
// A round takes as many bytes as all sums do, but at least so many.
constexpr std::int64_t least_round_bytes = 2 * 1024 * 1024;

// The largest divisor that is a multiple of 16, at most so large.
std::int64_t largest(std::int64_t number, std::int64_t most) {
  std::int64_t width = std::max(tile_columns, most / tile_columns * tile_columns);
  while (number % width != 0) width -= tile_columns;
  return width;
}

// sums [rows, 16] += the outer products of `count` rows of x and y.
template <int rows>
__attribute__((target("avx2,fma"))) void add_products(const float* x, const float* y,
                                                      std::int64_t count, float* sums,
                                                      std::int64_t sums_step, bool set) {
  __m256 acc[rows][2];
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
    acc[i][0] = set ? _mm256_setzero_ps() : _mm256_load_ps(sums + i * sums_step);
    acc[i][1] = set ? _mm256_setzero_ps() : _mm256_load_ps(sums + i * sums_step + 8);
  }
  for (std::int64_t k = 0; k < count; ++k, x += tile_columns, y += tile_columns) {
    const __m256 low = _mm256_load_ps(y), high = _mm256_load_ps(y + 8);
#pragma GCC unroll 6
    for (int i = 0; i < rows; ++i) {
      const __m256 value = _mm256_broadcast_ss(x + i);
      acc[i][0] = _mm256_fmadd_ps(value, low, acc[i][0]);
      acc[i][1] = _mm256_fmadd_ps(value, high, acc[i][1]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
    _mm256_store_ps(sums + i * sums_step, acc[i][0]);
    _mm256_store_ps(sums + i * sums_step + 8, acc[i][1]);
  }
}

}  // namespace

SumBlocks::SumBlocks(std::int64_t positions, std::int64_t all_channels, std::int64_t all_features,
                     std::int64_t threads)
    : positions(positions),
      channels(largest(all_channels, most_channels)),
      features(largest(all_features, most_features)) {
  // Enough for all threads.
  while (all_channels / channels * (all_features / features) < threads &&
         channels > tile_columns) {
    channels = largest(all_channels, channels / 2);
  }
  down = all_channels / channels;
  across = all_features / features;
}

void add_block(const SumBlocks& blocks, const Round& x, const Round& y, std::int64_t count,
               std::int64_t block, bool set, float* sums) {
  const std::int64_t down = block / blocks.across, across = block % blocks.across;
  const std::int64_t first_x = down * blocks.channels / tile_columns;
  const std::int64_t first_y = across * blocks.features / tile_columns;
  for (std::int64_t k = 0; k < blocks.positions; ++k) {
    float* const position = sums + k * blocks.channels * blocks.features;
    for (std::int64_t begin = 0; begin < count; begin += together) {
      const std::int64_t here = std::min(together, count - begin);
      for (std::int64_t f = 0; f < blocks.features; f += tile_columns) {
        const float* const b = y.at(first_y + f / tile_columns, k, begin);
        for (std::int64_t c = 0; c < blocks.channels; c += tile_columns) {
          const float* const a = x.at(first_x + c / tile_columns, k, begin);
          float* const to = position + c * blocks.features + f;
          const bool first = set && begin == 0;
          // 16 channels: as many sums as registers hold, three times.
          add_products<6>(a, b, here, to, blocks.features, first);
          add_products<5>(a + 6, b, here, to + 6 * blocks.features, blocks.features, first);
          add_products<5>(a + 11, b, here, to + 11 * blocks.features, blocks.features, first);
        }
      }
    }
  }
}

std::int64_t round_count(const SumBlocks& blocks, std::int64_t count) {
  constexpr std::int64_t number = sizeof(float);
  const std::int64_t bytes =
      std::max(least_round_bytes, blocks.count() * blocks.size() * number);
  const std::int64_t each = blocks.positions * number *
                            (blocks.down * blocks.channels + blocks.across * blocks.features);
  return ceil_div(count, std::max<std::int64_t>(1, count * each / bytes));
}

}  // namespace flax_resnet
