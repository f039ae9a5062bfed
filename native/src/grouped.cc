// Grouped float32 convolutions, forward and input gradient.
//
// Why not oneDNN: version 3.2 takes 18 ms for resnext50's first grouped layers (batch 4 of 56x56
// maps, 32 groups of 4 channels, two cores), which is 7 GFLOP/s.
//
// As in indirect.cc the pass is an implicit GEMM, here with one matrix per tap and group. A band of
// rows of a block of channels (some whole groups) is copied with zero padding, so that it is
// contiguous in the L2 cache. Up to 6 pixels by 16 features of sums, or with AVX-512 8 by 32, stay
// in registers.
#include "grouped.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "isa_algorithms.h"
#include "microkernel.h"
#include "scratch.h"
#include "tuning.h"

namespace flax_resnet::ISA {
namespace {

constexpr std::int64_t band_bytes = 192 * 1024;  // Copied rows of a task.
// The largest packed kernel of a block that stays in the L1 cache, in floats.
constexpr std::int64_t max_l1_kernel = 5 * 1024;
// Results are prefetched this many tiles ahead, as in indirect.cc.
constexpr std::int64_t tiles_ahead = 2;

// The layout of a GEMM's packed kernel: blocks of channels, and tiles of NR features within them.
struct PackedLayout {
  std::int64_t tiles, tile_size, block_size;

  PackedLayout(const ImplicitGemm& p, const ChannelBlocks& blocks)
      : tiles(blocks.width / nr),
        tile_size(static_cast<std::int64_t>(p.taps.size()) * blocks.depth * nr),
        block_size(tile_size * tiles) {}
};

// Packs the kernel [tap, C / groups, F] as [block][tile][tap][channel of the group][NR features].
void pack_block(const ImplicitGemm& p, const ChannelBlocks& blocks, const float* kernel,
                std::int64_t block, float* to) {
  for (std::int64_t tile = 0; tile < blocks.width / nr; ++tile) {
    const std::int64_t feature = block * blocks.width + tile * nr;
    for (const Tap& tap : p.taps) {
      const float* const matrix = kernel + tap.kernel_index * blocks.depth * p.features;
      for (std::int64_t i = 0; i < blocks.depth; ++i) {
        for (std::int64_t f = feature; f < feature + nr; ++f, ++to) {
          const std::int64_t first = f / blocks.depth * blocks.depth;
          *to = p.kernel_is_transposed ? matrix[(f - first) * p.features + first + i]
                                       : matrix[i * p.features + f];
        }
      }
    }
  }
}

// Pixels of the copied source, `step` floats apart, and the offsets of the taps from each pixel.
struct Source {
  const float* first;
  std::int64_t step;
  const std::int64_t* taps;
  std::int64_t tap_count, depth;
};

// The microkernel: computes `pixels` x NR sums. `group` is the number of channels of a group, or NR
// for any multiple of it. It decides how a channel is broadcast to the features of its group.
template <int pixels, int group>
SIMD inline void multiply_tile(const Source& from, const float* kernel, Vector (&acc)[pixels][2]) {
#pragma GCC unroll 16
  for (int i = 0; i < pixels; ++i) acc[i][0] = acc[i][1] = zero();
  for (std::int64_t tap = 0; tap < from.tap_count; ++tap) {
    const float* const source = from.first + from.taps[tap];
    if constexpr (group == 4) {
#define ACCUMULATE_CHANNEL_OF_FOUR(channel)                                    \
  {                                                                            \
    const Vector low = load(kernel), high = load(kernel + lanes);              \
    _Pragma("GCC unroll 16") for (int i = 0; i < pixels; ++i) {                \
      const float* const pixel = source + i * from.step;                       \
      const Vector a = broadcast_of_four<channel>(pixel);                      \
      const Vector b = broadcast_of_four<channel>(pixel + lanes);              \
      acc[i][0] = fmadd(a, low, acc[i][0]);                                    \
      acc[i][1] = fmadd(b, high, acc[i][1]);                                   \
    }                                                                          \
    kernel += nr;                                                              \
    /* Read the pixels again: kept in registers, they would evict the sums. */ \
    asm volatile("" : : : "memory");                                           \
  }
      ACCUMULATE_CHANNEL_OF_FOUR(0)
      ACCUMULATE_CHANNEL_OF_FOUR(1)
      ACCUMULATE_CHANNEL_OF_FOUR(2)
      ACCUMULATE_CHANNEL_OF_FOUR(3)
#undef ACCUMULATE_CHANNEL_OF_FOUR
    } else {
      const std::int64_t depth = group == nr ? from.depth : group;
      for (std::int64_t k = 0; k < depth; ++k, kernel += nr) {
        const Vector low = load(kernel), high = load(kernel + lanes);
#pragma GCC unroll 16
        for (int i = 0; i < pixels; ++i) {
          const float* const pixel = source + i * from.step + k;
          const Vector a = group == 8 ? broadcast_of_eight(pixel) : broadcast(pixel);
          const Vector b = group == nr  ? a
                           : group == 8 ? broadcast_of_eight(pixel + lanes)
                                        : broadcast(pixel + lanes);
          acc[i][0] = fmadd(a, low, acc[i][0]);
          acc[i][1] = fmadd(b, high, acc[i][1]);
        }
      }
    }
  }
}

// Where a register tile is written: `offset` floats after the start of the result.
struct Destination {
  float* result;
  std::int64_t offset, column_step, feature;
};

// Computes a register tile and applies the epilogue.
template <int pixels, int group>
SIMD void run_tile(const Source& from, const float* kernel, const Epilogue& epilogue,
                   const Destination& to) {
  const float* const bias = epilogue.bias_at(to.feature);
  const float* const residual = epilogue.residual_at(0);
  Vector acc[pixels][2];
  multiply_tile<pixels, group>(from, kernel, acc);
#pragma GCC unroll 16
  for (int i = 0; i < pixels; ++i) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Vector sum = acc[i][half];
      const std::int64_t at = to.offset + i * to.column_step + lanes * half;
      if (bias != nullptr) sum = add(sum, load(bias + lanes * half));
      if (residual != nullptr) sum = add(sum, load(residual + at));
      if (epilogue.relu) sum = relu(sum);
      store(to.result + at, sum);
    }
  }
}

// The function that computes a register tile of some number of pixels and groups of this depth.
using RunTile = void (*)(const Source&, const float*, const Epilogue&, const Destination&);

template <int group, int... index>
constexpr std::array<RunTile, sizeof...(index)> tiles_of(std::integer_sequence<int, index...>) {
  return {run_tile<index + 1, group>...};
}

template <int group>
RunTile tile_of(std::int64_t pixels) {
  constexpr auto tiles = tiles_of<group>(std::make_integer_sequence<int, tuning.grouped_pixels>());
  return tiles[pixels - 1];
}

RunTile tile_of(std::int64_t depth, std::int64_t pixels) {
  if (depth == 4) return tile_of<4>(pixels);
  if (depth == 8) return tile_of<8>(pixels);
  return depth == lanes ? tile_of<lanes>(pixels) : tile_of<nr>(pixels);
}

// Computes a band of rows of the result, of one image and one block of channels.
void run_band(const ImplicitGemm& p, const ChannelBlocks& blocks, const PackedLayout& layout,
              const float* packed, const Epilogue& epilogue, std::int64_t image, std::int64_t block,
              std::int64_t first_row, std::int64_t rows) {
  const SourceWindow window(p, first_row, rows);
  thread_local Scratch scratch;
  float* const copy =
      static_cast<float*>(scratch.get(window.rows * window.columns * blocks.width * sizeof(float)));
  const std::int64_t channel = block * blocks.width;
  window.copy(p, image, channel, blocks.width, copy);
  std::vector<std::int64_t> taps;
  for (const Tap& tap : p.taps) {
    const std::int64_t row = first_row * p.stride + tap.row - window.top;
    taps.push_back((row * window.columns + tap.column - window.left) * blocks.width);
  }
  const std::int64_t tiles_per_row = ceil_div(p.columns, tuning.grouped_pixels);
  const std::int64_t unit = std::max(blocks.depth, nr);
  // Compute one row at a time with all tiles of features, so that whole cache lines of the result
  // are written together, unless the kernel does not fit the L1 cache.
  const std::int64_t rows_per_pass = layout.block_size <= max_l1_kernel ? 1 : rows;
  const auto run_row = [&](std::int64_t row, std::int64_t tile) {
    const std::int64_t feature = channel + tile * nr;
    const float* const kernel = packed + block * layout.block_size + tile * layout.tile_size;
    const auto first_column = [&](std::int64_t row_tile) {
      return p.columns * row_tile / tiles_per_row;
    };
    const std::int64_t line = image * p.image_step + (first_row + row) * p.row_step + feature;
    for (std::int64_t row_tile = 0; row_tile < tiles_per_row; ++row_tile) {
      const std::int64_t begin = first_column(row_tile), end = first_column(row_tile + 1);
      const std::int64_t pixel = (row * window.columns + begin) * p.stride;
      const Source from{copy + pixel * blocks.width + tile * nr / unit * unit,
                        p.stride * blocks.width, taps.data(),
                        static_cast<std::int64_t>(taps.size()), blocks.depth};
      const Destination to{p.result, line + begin * p.column_step, p.column_step, feature};
      const std::int64_t ahead = std::min(row_tile + tiles_ahead, tiles_per_row);
      for (std::int64_t i = first_column(ahead);
           i < first_column(std::min(ahead + 1, tiles_per_row)); ++i) {
        for (std::int64_t f = 0; f < nr; f += line_floats) {
          prefetch_for_write(p.result + line + i * p.column_step + f);
        }
      }
      tile_of(blocks.depth, end - begin)(from, kernel, epilogue, to);
    }
  };
  for (std::int64_t first = 0; first < rows; first += rows_per_pass) {
    for (std::int64_t tile = 0; tile < layout.tiles; ++tile) {
      for (std::int64_t row = first; row < first + rows_per_pass; ++row) run_row(row, tile);
    }
  }
}

std::int64_t packed_size(const ImplicitGemm& p) {
  const ChannelBlocks blocks(p.channels, p.groups);
  return blocks.count * PackedLayout(p, blocks).block_size;
}

void pack(const ImplicitGemm& p, const float* kernel, float* packed, const Executor& executor) {
  const ChannelBlocks blocks(p.channels, p.groups);
  const PackedLayout layout(p, blocks);
  executor.run(blocks.count, [&](std::int64_t block) {
    pack_block(p, blocks, kernel, block, packed + block * layout.block_size);
  });
}

void run(const ImplicitGemm& p, const float* packed, const Epilogue& epilogue,
         const Executor& executor) {
  const ChannelBlocks blocks(p.channels, p.groups);
  const PackedLayout layout(p, blocks);
  const std::int64_t bands = band_count(p, blocks, band_bytes);
  executor.run(blocks.count * p.images * bands, [&](std::int64_t task) {
    const std::int64_t band = task % bands, image = task / bands % p.images;
    const std::int64_t begin = p.rows * band / bands, end = p.rows * (band + 1) / bands;
    run_band(p, blocks, layout, packed, epilogue, image, task / bands / p.images, begin,
             end - begin);
  });
}

// Groups with as many channels as ResNeXt's.
bool is_supported(const Problem& p) {
  if (p.groups == 1 || p.channels != p.features) return false;
  const ChannelBlocks blocks(p.channels, p.groups);
  const bool fits = blocks.depth == 4 || blocks.depth == 8 || blocks.depth % 16 == 0;
  return fits && blocks.depth <= ChannelBlocks::max_width && blocks.width % nr == 0;
}

bool is_profitable(const Problem&, bool) { return true; }

}  // namespace

const Algorithm grouped{"grouped", is_supported, is_profitable, packed_size, pack, run};

}  // namespace flax_resnet::ISA
