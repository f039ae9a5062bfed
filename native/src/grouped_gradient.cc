// The float32 kernel gradient of grouped 3x3 convolutions, on processors with AVX2 and FMA.
//
//     dkernel[i, j, c, f] = sum over n, y, x of  image[n, y s + i, x s + j, c of f's group]
//                                                dy[n, y, x, f]
//
// As in kernel_gradient.cc sums stay in registers while pixels go by: of the three taps of a row of
// the kernel, by four channels and 8 features or two channels and 16. The rows of a block of
// channels are copied, as in grouped.cc, zeros around them. Some images and a block are the work of
// one thread; into how many parts the images are cut does not depend on how many threads there are,
// so that neither does the result.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "grouped.h"
#include "scratch.h"
#include "ways.h"

namespace flax_resnet {
namespace {

constexpr std::int64_t band_bytes = 128 * 1024;  // of copied rows, and as many again of dy's
constexpr std::int64_t most_parts = 4;           // of the images
constexpr std::int64_t part_pixels = 256;        // of a result, about, where these make fewer parts
constexpr int side = 3;                          // of the kernel
constexpr int sums = 12;                         // in registers, of 8 numbers

// Copied rows: where the first pixel is, and how far apart pixels and rows are.
struct Rows {
  const float* first;
  std::int64_t column_step, row_step;
};

// sums [3 taps][channels][8 or 16 features] += the products of all pixels. Of groups of four, `x`
// is where the features' own two groups are, else where the first channel is.
template <int group>
__attribute__((target("avx2,fma"))) void add_products(const Rows& x, const Rows& dy,
                                                      std::int64_t tap_step, std::int64_t rows,
                                                      std::int64_t columns, float* to) {
  constexpr int channels = group >= 16 ? 2 : 4, halves = group >= 16 ? 2 : 1;
  __m256 acc[side][channels][halves];
#pragma GCC unroll 12
  for (int k = 0; k < sums; ++k) {
    acc[k / (channels * halves)][k / halves % channels][k % halves] = _mm256_load_ps(to + 8 * k);
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* a = x.first + row * x.row_step;
    const float* b = dy.first + row * dy.row_step;
    for (std::int64_t column = 0; column < columns; ++column) {
      const __m256 low = _mm256_load_ps(b);
      const __m256 high = halves == 2 ? _mm256_load_ps(b + 8) : low;
#pragma GCC unroll 3
      for (int tap = 0; tap < side; ++tap) {
        const float* const pixel = a + tap * tap_step;
        if constexpr (group == 4) {
          const __m256 numbers = _mm256_load_ps(pixel);
          const __m256 n[4] = {_mm256_permute_ps(numbers, 0x00), _mm256_permute_ps(numbers, 0x55),
                               _mm256_permute_ps(numbers, 0xaa), _mm256_permute_ps(numbers, 0xff)};
#pragma GCC unroll 4
          for (int c = 0; c < 4; ++c) acc[tap][c][0] = _mm256_fmadd_ps(n[c], low, acc[tap][c][0]);
        } else {
#pragma GCC unroll 4
          for (int c = 0; c < channels; ++c) {
            const __m256 number = _mm256_broadcast_ss(pixel + c);
            acc[tap][c][0] = _mm256_fmadd_ps(number, low, acc[tap][c][0]);
            if constexpr (halves == 2) {
              acc[tap][c][1] = _mm256_fmadd_ps(number, high, acc[tap][c][1]);
            }
          }
        }
      }
      a += x.column_step;
      b += dy.column_step;
    }
  }
#pragma GCC unroll 12
  for (int k = 0; k < sums; ++k) {
    _mm256_store_ps(to + 8 * k, acc[k / (channels * halves)][k / halves % channels][k % halves]);
  }
}

// The sums of a block: tiles of 8 or 16 features, for each the rows of the kernel, for each some
// channels at a time.
struct Tiles {
  std::int64_t features, channels, depth, steps, count;

  explicit Tiles(const Blocks& blocks)
      : features(blocks.depth >= 16 ? 16 : 8),
        channels(blocks.depth >= 16 ? 2 : 4),
        depth(blocks.depth),
        steps(blocks.depth / channels),
        count(blocks.width / features * side * steps) {}
  static constexpr std::int64_t size = sums * 8;

  std::int64_t feature(std::int64_t tile) const { return tile / (side * steps) * features; }
  std::int64_t kernel_row(std::int64_t tile) const { return tile / steps % side; }
  std::int64_t channel(std::int64_t tile) const { return tile % steps * channels; }
};

void add_band(const Problem& p, const Blocks& blocks, const Tiles& tiles, const Rows& x,
              const Rows& dy, std::int64_t rows, float* to) {
  const auto add = tiles.depth == 4   ? add_products<4>
                   : tiles.depth == 8 ? add_products<8>
                                      : add_products<16>;
  for (std::int64_t tile = 0; tile < tiles.count; ++tile, to += Tiles::size) {
    const std::int64_t feature = tiles.feature(tile);
    // Two groups of four lie in eight numbers and are taken as they lie.
    const std::int64_t unit = std::max<std::int64_t>(8, tiles.depth);
    const std::int64_t channel = feature / unit * unit + tiles.channel(tile);
    add({x.first + tiles.kernel_row(tile) * x.row_step + channel, x.column_step * p.stride,
         x.row_step * p.stride},
        {dy.first + feature, dy.column_step, dy.row_step}, blocks.width, rows, p.out_width, to);
  }
}

// The sums of some images, for one block.
void sum_images(const Problem& p, const float* x, const float* dy, const Blocks& blocks,
                std::int64_t block, std::int64_t first_image, std::int64_t images, float* to) {
  const Product source = forward_product(p, x, nullptr);
  const Tiles tiles(blocks);
  const std::int64_t bands = bands_of(source, blocks, band_bytes);
  const std::int64_t channel = block * blocks.width, row_step = p.out_width * blocks.width;
  // dy's own rows are a window too, of a product by one tap.
  const Product result{dy, p.out_height, p.out_width, p.features, 1, nullptr, p.images,
                       p.out_height, p.out_width, p.features, 0, 0, 0, {{0, 0, 0}}, false,
                       p.groups};
  std::memset(to, 0, tiles.count * Tiles::size * sizeof(float));
  thread_local Scratch x_scratch, dy_scratch;
  for (std::int64_t i = 0; i < images * bands; ++i) {
    const std::int64_t image = first_image + i / bands, band = i % bands;
    const std::int64_t begin = p.out_height * band / bands;
    const std::int64_t end = p.out_height * (band + 1) / bands;
    const Window window(source, begin, end - begin), dy_window(result, begin, end - begin);
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

// The sum of the parts' sums, as a part of the kernel [3, 3, C / groups, F].
void write_block(const Problem& p, const Blocks& blocks, std::int64_t block, const float* from,
                 std::int64_t parts, std::int64_t part_step, float* dkernel) {
  const Tiles tiles(blocks);
  for (std::int64_t tile = 0; tile < tiles.count; ++tile, from += Tiles::size) {
    const float* numbers = from;
    for (std::int64_t tap = 0; tap < side; ++tap) {
      for (std::int64_t c = 0; c < tiles.channels; ++c) {
        const std::int64_t row =
            (tiles.kernel_row(tile) * side + tap) * blocks.depth + tiles.channel(tile) + c;
        float* const to =
            dkernel + row * p.features + block * blocks.width + tiles.feature(tile);
        std::memcpy(to, numbers, tiles.features * sizeof(float));
        for (std::int64_t part = 1; part < parts; ++part) {
          for (std::int64_t f = 0; f < tiles.features; ++f) to[f] += numbers[part * part_step + f];
        }
        numbers += tiles.features;
      }
    }
  }
}

bool can(const Problem& p) {
  return grouped.can(p) && p.kernel_height == side && p.kernel_width == side;
}

bool pays(const Problem&) { return true; }

void run(const Problem& p, const float* x, const float* dy, float* dkernel,
         const Executor& executor) {
  const Blocks blocks(p.channels, p.groups);
  const std::int64_t pixels = p.images * p.out_height * p.out_width;
  const std::int64_t parts = std::min({most_parts, p.images, ceil_div(pixels, part_pixels)});
  const std::int64_t size = Tiles(blocks).count * Tiles::size;
  thread_local Scratch scratch;
  float* const all =
      static_cast<float*>(scratch.get(blocks.count * parts * size * sizeof(float)));
  executor.run(blocks.count * parts, [&](std::int64_t i) {
    const std::int64_t block = i / parts, part = i % parts;
    const std::int64_t begin = p.images * part / parts, end = p.images * (part + 1) / parts;
    sum_images(p, x, dy, blocks, block, begin, end - begin, all + i * size);
  });
  executor.run(blocks.count, [&](std::int64_t block) {
    write_block(p, blocks, block, all + block * parts * size, parts, size, dkernel);
  });
}

}  // namespace

const GradientWay grouped_gradient{"grouped", can, pays, run};

}  // namespace flax_resnet
