#include "outer_products.h"

#include <immintrin.h>

namespace flax_resnet {
namespace {

constexpr std::int64_t max_channels = 64, max_features = 64;  // The largest block.
// This many values of i of a panel of both operands stay in the L1 cache.
constexpr std::int64_t l1_count = 192;
// A chunk takes as many bytes as all sums do, but at least this many.
constexpr std::int64_t min_chunk_bytes = 2 * 1024 * 1024;

// Returns the largest divisor of `size` that is a multiple of NR and at most `most`.
std::int64_t largest_divisor(std::int64_t size, std::int64_t most) {
  std::int64_t divisor = std::max(nr, most / nr * nr);
  while (size % divisor != 0) divisor -= nr;
  return divisor;
}

// Adds the outer products of `count` rows of x and y to sums [rows, NR], or with `set` overwrites
// them.
template <int rows>
__attribute__((target("avx2,fma"))) void add_outer_products(const float* x, const float* y,
                                                            std::int64_t count, float* sums,
                                                            std::int64_t sums_step, bool set) {
  __m256 acc[rows][2];
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
    acc[i][0] = set ? _mm256_setzero_ps() : _mm256_load_ps(sums + i * sums_step);
    acc[i][1] = set ? _mm256_setzero_ps() : _mm256_load_ps(sums + i * sums_step + 8);
  }
  for (std::int64_t k = 0; k < count; ++k, x += nr, y += nr) {
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

SumBlocks::SumBlocks(std::int64_t points, std::int64_t all_channels, std::int64_t all_features,
                     std::int64_t threads)
    : points(points),
      channels(largest_divisor(all_channels, max_channels)),
      features(largest_divisor(all_features, max_features)) {
  // Make blocks narrower until there are enough for all threads.
  while (all_channels / channels * (all_features / features) < threads && channels > nr) {
    channels = largest_divisor(all_channels, channels / 2);
  }
  block_rows = all_channels / channels;
  block_columns = all_features / features;
}

void add_block(const SumBlocks& blocks, const PackedChunk& x, const PackedChunk& y,
               std::int64_t count, std::int64_t block, bool set, float* sums) {
  const std::int64_t block_row = block / blocks.block_columns,
                     block_column = block % blocks.block_columns;
  const std::int64_t first_x = block_row * blocks.channels / nr;
  const std::int64_t first_y = block_column * blocks.features / nr;
  for (std::int64_t k = 0; k < blocks.points; ++k) {
    float* const point_sums = sums + k * blocks.channels * blocks.features;
    for (std::int64_t begin = 0; begin < count; begin += l1_count) {
      const std::int64_t count_here = std::min(l1_count, count - begin);
      for (std::int64_t f = 0; f < blocks.features; f += nr) {
        const float* const b = y.at(first_y + f / nr, k, begin);
        for (std::int64_t c = 0; c < blocks.channels; c += nr) {
          const float* const a = x.at(first_x + c / nr, k, begin);
          float* const to = point_sums + c * blocks.features + f;
          const bool starts_at_zero = set && begin == 0;
          // NR channels take three calls, each with as many sums as the registers hold.
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

std::int64_t chunk_size(const SumBlocks& blocks, std::int64_t count) {
  constexpr std::int64_t float_bytes = sizeof(float);
  const std::int64_t bytes =
      std::max(min_chunk_bytes, blocks.count() * blocks.size() * float_bytes);
  const std::int64_t bytes_per_index =
      blocks.points * float_bytes *
      (blocks.block_rows * blocks.channels + blocks.block_columns * blocks.features);
  return ceil_div(count, std::max<std::int64_t>(1, count * bytes_per_index / bytes));
}

}  // namespace flax_resnet
