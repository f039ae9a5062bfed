// The float32 kernel gradient of grouped 3x3 convolutions.
//
//     dkernel[i, j, c, f] = sum over n, y, x of  image[n, y s + i, x s + j, c of f's group]
//                                                dy[n, y, x, f]
//
// As in tiled_kernel_gradient.cc a register tile of sums is accumulated over the pixels: the three
// taps of a kernel row, by 4 channels and a vector of features or by 2 channels and two vectors.
// The rows of a block of channels are copied with zero padding, as in grouped.cc. A task sums over
// some images for one block of channels. The number of partial sums does not depend on the number
// of threads, so the result does not either.
#include <algorithm>
#include <cstring>

#include "grouped.h"
#include "isa_algorithms.h"
#include "scratch.h"
#include "vector.h"

namespace flax_resnet::ISA {
namespace {

constexpr std::int64_t band_bytes = 128 * 1024;  // Copied rows of images, and again as much of dy.
constexpr std::int64_t max_partial_sums = 4;     // The most partial sums over images.
// Each partial sum is over at least about this many pixels of the result.
constexpr std::int64_t pixels_per_sum = 256;
constexpr int kernel_side = 3;   // The kernel is 3x3.
constexpr int sum_vectors = 12;  // Vectors of sums in registers.

// Copied rows: the first pixel, and the distances between pixels and between rows in floats.
struct Rows {
  const float* first;
  std::int64_t column_step, row_step;
};

// Adds the products of all pixels to the sums [3 taps][channels][one or two vectors of
// features]. `x` points to the first channel of the first group that the features belong to.
// `group` is the number of channels of a group, or NR for any multiple of it.
template <int group>
SIMD void accumulate_tile(const Rows& x, const Rows& dy, std::int64_t tap_step, std::int64_t rows,
                          std::int64_t columns, float* to) {
  constexpr int channels = group == nr ? 2 : 4, halves = group == nr ? 2 : 1;
  Vector acc[kernel_side][channels][halves];
#pragma GCC unroll 12
  for (int k = 0; k < sum_vectors; ++k) {
    acc[k / (channels * halves)][k / halves % channels][k % halves] = load(to + lanes * k);
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* a = x.first + row * x.row_step;
    const float* b = dy.first + row * dy.row_step;
    for (std::int64_t column = 0; column < columns; ++column) {
      const Vector low = load(b);
      const Vector high = halves == 2 ? load(b + lanes) : low;
#pragma GCC unroll 3
      for (int tap = 0; tap < kernel_side; ++tap) {
        const float* const pixel = a + tap * tap_step;
        if constexpr (group == 4) {
          const Vector n[4] = {broadcast_of_four<0>(pixel), broadcast_of_four<1>(pixel),
                               broadcast_of_four<2>(pixel), broadcast_of_four<3>(pixel)};
#pragma GCC unroll 4
          for (int c = 0; c < 4; ++c) acc[tap][c][0] = fmadd(n[c], low, acc[tap][c][0]);
        } else {
#pragma GCC unroll 4
          for (int c = 0; c < channels; ++c) {
            const Vector value = group == 8 ? broadcast_of_eight(pixel + c) : broadcast(pixel + c);
            acc[tap][c][0] = fmadd(value, low, acc[tap][c][0]);
            if constexpr (halves == 2) {
              acc[tap][c][1] = fmadd(value, high, acc[tap][c][1]);
            }
          }
        }
      }
      a += x.column_step;
      b += dy.column_step;
    }
  }
#pragma GCC unroll 12
  for (int k = 0; k < sum_vectors; ++k) {
    store(to + lanes * k, acc[k / (channels * halves)][k / halves % channels][k % halves]);
  }
}

// The order of a block's register tiles: for each one or two vectors of features the rows of the
// kernel, and for each row 4 or 2 channels at a time.
struct Tiles {
  std::int64_t features, channels, depth, steps, count;

  explicit Tiles(const ChannelBlocks& blocks)
      : features(blocks.depth >= nr ? nr : lanes),
        channels(blocks.depth >= nr ? 2 : 4),
        depth(blocks.depth),
        steps(blocks.depth / channels),
        count(blocks.width / features * kernel_side * steps) {}
  static constexpr std::int64_t size = sum_vectors * lanes;

  std::int64_t feature(std::int64_t tile) const { return tile / (kernel_side * steps) * features; }
  std::int64_t kernel_row(std::int64_t tile) const { return tile / steps % kernel_side; }
  std::int64_t channel(std::int64_t tile) const { return tile % steps * channels; }
};

// Adds the products of a band of copied rows to the sums of all register tiles.
void add_band(const Problem& p, const ChannelBlocks& blocks, const Tiles& tiles, const Rows& x,
              const Rows& dy, std::int64_t rows, float* to) {
  const auto add = tiles.depth == 4       ? accumulate_tile<4>
                   : tiles.depth == 8     ? accumulate_tile<8>
                   : tiles.depth == lanes ? accumulate_tile<lanes>
                                          : accumulate_tile<nr>;
  for (std::int64_t tile = 0; tile < tiles.count; ++tile, to += Tiles::size) {
    const std::int64_t feature = tiles.feature(tile);
    // Groups that are smaller than a vector share one.
    const std::int64_t unit = std::max(lanes, tiles.depth);
    const std::int64_t channel = feature / unit * unit + tiles.channel(tile);
    add({x.first + tiles.kernel_row(tile) * x.row_step + channel, x.column_step * p.stride,
         x.row_step * p.stride},
        {dy.first + feature, dy.column_step, dy.row_step}, blocks.width, rows, p.out_width, to);
  }
}

// Computes the partial sums over some images for one block of channels.
void sum_images(const Problem& p, const float* x, const float* dy, const ChannelBlocks& blocks,
                std::int64_t block, std::int64_t first_image, std::int64_t images, float* to) {
  const ImplicitGemm source = forward_gemm(p, x, nullptr);
  const Tiles tiles(blocks);
  const std::int64_t bands = band_count(source, blocks, band_bytes);
  const std::int64_t channel = block * blocks.width, row_step = p.out_width * blocks.width;
  // dy is copied as the source window of a GEMM with a single tap.
  const ImplicitGemm result{dy,       p.out_height, p.out_width, p.features, 1, nullptr,
                            p.images, p.out_height, p.out_width, p.features, 0, 0,
                            0,        {{0, 0, 0}},  false,       p.groups};
  std::memset(to, 0, tiles.count * Tiles::size * sizeof(float));
  thread_local Scratch x_scratch, dy_scratch;
  for (std::int64_t i = 0; i < images * bands; ++i) {
    const std::int64_t image = first_image + i / bands, band = i % bands;
    const std::int64_t begin = p.out_height * band / bands;
    const std::int64_t end = p.out_height * (band + 1) / bands;
    const SourceWindow window(source, begin, end - begin), dy_window(result, begin, end - begin);
    float* const x_rows = static_cast<float*>(
        x_scratch.get(window.rows * window.columns * blocks.width * sizeof(float)));
    float* const dy_rows =
        static_cast<float*>(dy_scratch.get((end - begin) * row_step * sizeof(float)));
    window.copy(source, image, channel, blocks.width, x_rows);
    dy_window.copy(result, image, channel, blocks.width, dy_rows);
    add_band(p, blocks, tiles, {x_rows, blocks.width, window.columns * blocks.width},
             {dy_rows, blocks.width, row_step}, end - begin, to);
  }
}

// Adds up the partial sums of one block and writes them to the kernel [3, 3, C / groups, F].
void write_total(const Problem& p, const ChannelBlocks& blocks, std::int64_t block,
                 const float* from, std::int64_t partials, std::int64_t partial_step,
                 float* dkernel) {
  const Tiles tiles(blocks);
  for (std::int64_t tile = 0; tile < tiles.count; ++tile, from += Tiles::size) {
    const float* values = from;
    for (std::int64_t tap = 0; tap < kernel_side; ++tap) {
      for (std::int64_t c = 0; c < tiles.channels; ++c) {
        const std::int64_t row =
            (tiles.kernel_row(tile) * kernel_side + tap) * blocks.depth + tiles.channel(tile) + c;
        float* const to = dkernel + row * p.features + block * blocks.width + tiles.feature(tile);
        std::memcpy(to, values, tiles.features * sizeof(float));
        for (std::int64_t partial = 1; partial < partials; ++partial) {
          for (std::int64_t f = 0; f < tiles.features; ++f) {
            to[f] += values[partial * partial_step + f];
          }
        }
        values += tiles.features;
      }
    }
  }
}

bool is_supported(const Problem& p) {
  return grouped.is_supported(p) && p.kernel_height == kernel_side && p.kernel_width == kernel_side;
}

bool is_profitable(const Problem&) { return true; }

void run(const Problem& p, const float* x, const float* dy, float* dkernel,
         const Executor& executor) {
  const ChannelBlocks blocks(p.channels, p.groups);
  const std::int64_t pixels = p.images * p.out_height * p.out_width;
  const std::int64_t partials =
      std::min({max_partial_sums, p.images, ceil_div(pixels, pixels_per_sum)});
  const std::int64_t size = Tiles(blocks).count * Tiles::size;
  thread_local Scratch scratch;
  float* const partial_sums =
      static_cast<float*>(scratch.get(blocks.count * partials * size * sizeof(float)));
  executor.run(blocks.count * partials, [&](std::int64_t i) {
    const std::int64_t block = i / partials, partial = i % partials;
    const std::int64_t begin = p.images * partial / partials,
                       end = p.images * (partial + 1) / partials;
    sum_images(p, x, dy, blocks, block, begin, end - begin, partial_sums + i * size);
  });
  executor.run(blocks.count, [&](std::int64_t block) {
    write_total(p, blocks, block, partial_sums + block * partials * size, partials, size, dkernel);
  });
}

}  // namespace

const KernelGradientAlgorithm grouped_kernel_gradient{"grouped", is_supported, is_profitable, run};

}  // namespace flax_resnet::ISA
