// Float32 grouped convolutions, forward and input gradient, on processors with AVX2 and FMA.
//
// Why: oneDNN 3.2's took 18 ms for resnext50's first ones (batch 4 of 56x56 maps, 32 groups of 4
// channels, two cores), at 7 GFLOP/s.
//
// As in indirect.cc each pixel of the result is a sum, over a few taps, of a pixel of the source
// times a matrix of the kernel's, here one for each group. Some rows of some whole groups' channels,
// a block, are copied, zeros around them, so that they lie together in the second-level cache; up
// to six pixels by 16 features of sums stay in registers.
#include <immintrin.h>

#include <algorithm>
#include <vector>

#include "grouped.h"
#include "scratch.h"
#include "tile.h"
#include "ways.h"

namespace flax_resnet {
namespace {

constexpr std::int64_t band_bytes = 192 * 1024;  // of copied rows
// Packed kernels of a block that stay in the first-level cache, in numbers.
constexpr std::int64_t near_kernel = 5 * 1024;
// Results are asked for so many tiles of pixels ahead, as in indirect.cc.
constexpr std::int64_t cuts_ahead = 2;

// The packed kernel of a product, by blocks and tiles of 16 features.
struct Packed {
  std::int64_t tiles, tile_size, block_size;

  Packed(const Product& p, const Blocks& blocks)
      : tiles(blocks.width / tile_columns),
        tile_size(static_cast<std::int64_t>(p.taps.size()) * blocks.depth * tile_columns),
        block_size(tile_size * tiles) {}
};

// The kernel [tap, C / groups, F] as [block][tile][tap][channel of the group][16 features].
void pack_block(const Product& p, const Blocks& blocks, const float* kernel, std::int64_t block,
                float* to) {
  for (std::int64_t tile = 0; tile < blocks.width / tile_columns; ++tile) {
    const std::int64_t feature = block * blocks.width + tile * tile_columns;
    for (const Tap& tap : p.taps) {
      const float* const matrix = kernel + tap.kernel * blocks.depth * p.features;
      for (std::int64_t i = 0; i < blocks.depth; ++i) {
        for (std::int64_t f = feature; f < feature + tile_columns; ++f, ++to) {
          const std::int64_t first = f / blocks.depth * blocks.depth;
          *to = p.transposed ? matrix[(f - first) * p.features + first + i]
                             : matrix[i * p.features + f];
        }
      }
    }
  }
}

// Pixels of the copied source, `step` numbers apart, and where the taps lie from each.
struct Source {
  const float* first;
  std::int64_t step;
  const std::int64_t* taps;
  std::int64_t tap_count, depth;
};

// `pixels` by 16 sums. How a number meets its group's features depends on how many these are.
template <int pixels, int group>
__attribute__((target("avx2,fma"))) inline void multiply(const Source& from, const float* kernel,
                                                         __m256 (&acc)[pixels][2]) {
#pragma GCC unroll 6
  for (int i = 0; i < pixels; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  for (std::int64_t tap = 0; tap < from.tap_count; ++tap) {
    const float* const source = from.first + from.taps[tap];
    if constexpr (group == 4) {
      // Two groups in eight numbers: one of each four, to all its four features.
#define ONE_OF_FOUR(channel)                                                      \
  {                                                                               \
    const __m256 low = _mm256_load_ps(kernel), high = _mm256_load_ps(kernel + 8); \
    _Pragma("GCC unroll 6") for (int i = 0; i < pixels; ++i) {                    \
      const float* const pixel = source + i * from.step;                          \
      const __m256 a = _mm256_permute_ps(_mm256_load_ps(pixel), channel * 0x55);  \
      const __m256 b = _mm256_permute_ps(_mm256_load_ps(pixel + 8), channel * 0x55); \
      acc[i][0] = _mm256_fmadd_ps(a, low, acc[i][0]);                             \
      acc[i][1] = _mm256_fmadd_ps(b, high, acc[i][1]);                            \
    }                                                                             \
    kernel += tile_columns;                                                       \
    /* Read the pixels anew: kept, they would push the sums out of the registers. */ \
    asm volatile("" : : : "memory");                                              \
  }
      ONE_OF_FOUR(0)
      ONE_OF_FOUR(1)
      ONE_OF_FOUR(2)
      ONE_OF_FOUR(3)
#undef ONE_OF_FOUR
    } else {
      const std::int64_t depth = group == 8 ? 8 : from.depth;
      for (std::int64_t k = 0; k < depth; ++k, kernel += tile_columns) {
        const __m256 low = _mm256_load_ps(kernel), high = _mm256_load_ps(kernel + 8);
#pragma GCC unroll 6
        for (int i = 0; i < pixels; ++i) {
          const float* const pixel = source + i * from.step + k;
          const __m256 a = _mm256_broadcast_ss(pixel);
          const __m256 b = group == 8 ? _mm256_broadcast_ss(pixel + 8) : a;
          acc[i][0] = _mm256_fmadd_ps(a, low, acc[i][0]);
          acc[i][1] = _mm256_fmadd_ps(b, high, acc[i][1]);
        }
      }
    }
  }
}

// What follows the sums of 16 features, at `offset` from the first number of the result.
struct Finish {
  const float *bias, *residual;  // or null
  float* result;
  std::int64_t column_step;
  bool relu;
};

template <int pixels, int group>
__attribute__((target("avx2,fma"))) void run_tile(const Source& from, const float* kernel,
                                                  const Finish& finish, std::int64_t offset) {
  __m256 acc[pixels][2];
  multiply<pixels, group>(from, kernel, acc);
  const __m256 zero = _mm256_setzero_ps();
#pragma GCC unroll 6
  for (int i = 0; i < pixels; ++i) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m256 sum = acc[i][half];
      const std::int64_t at = offset + i * finish.column_step + 8 * half;
      if (finish.bias != nullptr) sum = _mm256_add_ps(sum, _mm256_loadu_ps(finish.bias + 8 * half));
      if (finish.residual != nullptr) {
        sum = _mm256_add_ps(sum, _mm256_loadu_ps(finish.residual + at));
      }
      if (finish.relu) sum = _mm256_max_ps(zero, sum);  // of a NaN, the second
      _mm256_storeu_ps(finish.result + at, sum);
    }
  }
}

using RunTile = void (*)(const Source&, const float*, const Finish&, std::int64_t);

template <int group>
RunTile tile_of(std::int64_t pixels) {
  constexpr RunTile tiles[] = {run_tile<1, group>, run_tile<2, group>, run_tile<3, group>,
                               run_tile<4, group>, run_tile<5, group>, run_tile<6, group>};
  return tiles[pixels - 1];
}

RunTile tile_of(std::int64_t depth, std::int64_t pixels) {
  if (depth == 4) return tile_of<4>(pixels);
  return depth == 8 ? tile_of<8>(pixels) : tile_of<16>(pixels);
}

// Rows of the result of one image and one block: the work of one thread.
void run_band(const Product& p, const Blocks& blocks, const Packed& layout, const float* packed,
              const Epilogue& epilogue, std::int64_t image, std::int64_t block,
              std::int64_t first_row, std::int64_t rows) {
  const Window window(p, first_row, rows);
  thread_local Scratch scratch;
  float* const copy = static_cast<float*>(
      scratch.get(window.rows * window.columns * blocks.width * sizeof(float)));
  const std::int64_t channel = block * blocks.width;
  window.copy(p, image, channel, blocks.width, copy);
  std::vector<std::int64_t> taps;
  for (const Tap& tap : p.taps) {
    const std::int64_t row = first_row * p.stride + tap.row - window.top;
    taps.push_back((row * window.columns + tap.column - window.left) * blocks.width);
  }
  const std::int64_t cuts = ceil_div(p.columns, tile_rows);
  const std::int64_t unit = std::max(blocks.depth, tile_columns);
  // Row by row, so that whole lines of the result are written, unless the kernel is too large.
  const std::int64_t rows_together = layout.block_size <= near_kernel ? 1 : rows;
  const auto run_row = [&](std::int64_t row, std::int64_t tile) {
    const std::int64_t feature = channel + tile * tile_columns;
    const auto* const bias = static_cast<const float*>(epilogue.bias);
    const Finish finish{bias == nullptr ? nullptr : bias + feature,
                        static_cast<const float*>(epilogue.residual), p.result, p.column_step,
                        epilogue.relu};
    const float* const kernel = packed + block * layout.block_size + tile * layout.tile_size;
    const auto begin_of = [&](std::int64_t cut) { return p.columns * cut / cuts; };
    const std::int64_t line = image * p.image_step + (first_row + row) * p.row_step + feature;
    for (std::int64_t cut = 0; cut < cuts; ++cut) {
      const std::int64_t begin = begin_of(cut), end = begin_of(cut + 1);
      const std::int64_t pixel = (row * window.columns + begin) * p.stride;
      const Source from{copy + pixel * blocks.width + tile * tile_columns / unit * unit,
                        p.stride * blocks.width, taps.data(),
                        static_cast<std::int64_t>(taps.size()), blocks.depth};
      const std::int64_t at = line + begin * p.column_step;
      const std::int64_t ahead = std::min(cut + cuts_ahead, cuts);
      for (std::int64_t i = begin_of(ahead); i < begin_of(std::min(ahead + 1, cuts)); ++i) {
        ask_for_result(p.result + line + i * p.column_step);
      }
      tile_of(blocks.depth, end - begin)(from, kernel, finish, at);
    }
  };
  for (std::int64_t first = 0; first < rows; first += rows_together) {
    for (std::int64_t tile = 0; tile < layout.tiles; ++tile) {
      for (std::int64_t row = first; row < first + rows_together; ++row) run_row(row, tile);
    }
  }
}

std::int64_t packed_size(const Product& p) {
  const Blocks blocks(p.channels, p.groups);
  return blocks.count * Packed(p, blocks).block_size;
}

void pack(const Product& p, const float* kernel, float* packed, const Executor& executor) {
  const Blocks blocks(p.channels, p.groups);
  const Packed layout(p, blocks);
  executor.run(blocks.count, [&](std::int64_t block) {
    pack_block(p, blocks, kernel, block, packed + block * layout.block_size);
  });
}

void run(const Product& p, const float* packed, const Epilogue& epilogue,
         const Executor& executor) {
  const Blocks blocks(p.channels, p.groups);
  const Packed layout(p, blocks);
  const std::int64_t bands = bands_of(p, blocks, band_bytes);
  executor.run(blocks.count * p.images * bands, [&](std::int64_t part) {
    const std::int64_t band = part % bands, image = part / bands % p.images;
    const std::int64_t begin = p.rows * band / bands, end = p.rows * (band + 1) / bands;
    run_band(p, blocks, layout, packed, epilogue, image, part / bands / p.images, begin,
             end - begin);
  });
}

// Groups as wide as ResNeXt's.
bool can(const Problem& p) {
  const std::int64_t depth = p.channels / p.groups;
  const bool fits = depth == 4 || depth == 8 || (depth % 16 == 0 && depth <= 64);
  return own_kernels_suit(p) && p.groups > 1 && fits && p.channels == p.features &&
         p.channels % tile_columns == 0;
}

bool pays(const Problem&, bool) { return true; }

}  // namespace

const Way grouped{"grouped", can, pays, packed_size, pack, run};

}  // namespace flax_resnet
