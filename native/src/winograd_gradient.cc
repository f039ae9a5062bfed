// The kernel gradient of float32 3x3 convolutions of stride 1 with fewer multiplications: Winograd's
// (winograd.h) turned round. Windows of the image and squares of dy are transformed; at each of the
// 36 positions the products of their channels and features are summed over the squares; the sums are
// transformed to the 3x3 matrices.
//
// Threads first transform, then share out blocks of channels by features: no two add to the same
// sum. Squares come in rounds, which stay in the caches.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "scratch.h"
#include "ways.h"
#include "winograd.h"

namespace flax_resnet {
namespace {

constexpr std::int64_t most_channels = 64, most_features = 64;  // of a block
// A block's numbers of so many squares, and its sums, stay in the first-level cache.
constexpr std::int64_t squares_together = 32;
// Transformed pixels of a round: as many bytes as the sums take, but at least so many.
constexpr std::int64_t least_round_bytes = 2 * 1024 * 1024;

// Four pixels of dy in a line, evaluated.
AVX2 void evaluate_result(const __m256 (&y)[window_step], __m256 (&to)[window]) {
  const __m256 even_p = _mm256_fmadd_ps(all(p2), y[2], y[0]);
  const __m256 even_q = _mm256_fmadd_ps(all(q2), y[2], y[0]);
  const __m256 odd_p = _mm256_fmadd_ps(all(p2), y[3], y[1]);
  const __m256 odd_q = _mm256_fmadd_ps(all(q2), y[3], y[1]);
  to[0] = y[0];
  to[1] = _mm256_fmadd_ps(all(p1), odd_p, even_p);
  to[2] = _mm256_fnmadd_ps(all(p1), odd_p, even_p);
  to[3] = _mm256_fmadd_ps(all(q1), odd_q, even_q);
  to[4] = _mm256_fnmadd_ps(all(q1), odd_q, even_q);
  to[5] = y[3];
}

// Six sums in a line to three numbers of the kernel.
AVX2 void to_kernel(const __m256 (&u)[window], __m256 (&to)[3]) {
  const __m256 sum_p = _mm256_add_ps(u[1], u[2]), sum_q = _mm256_add_ps(u[3], u[4]);
  const __m256 gap_p = _mm256_sub_ps(u[1], u[2]), gap_q = _mm256_sub_ps(u[3], u[4]);
  to[0] = _mm256_fmadd_ps(all(by_p), sum_p, _mm256_fmadd_ps(all(by_q), sum_q, u[0]));
  to[1] = _mm256_fmadd_ps(all(by_p * p1), gap_p, _mm256_mul_ps(all(by_q * q1), gap_q));
  to[2] = _mm256_fmadd_ps(all(by_p * p2), sum_p, _mm256_fmadd_ps(all(by_q * q2), sum_q, u[5]));
}

// Blocks of the sums [position, channels, features].
struct Blocks {
  std::int64_t channels, features;  // of a block
  std::int64_t down, across;        // how many

  Blocks(const Problem& p, std::int64_t threads)
      : channels(largest(p.channels, most_channels)), features(largest(p.features, most_features)) {
    // Enough for all threads.
    while (p.channels / channels * (p.features / features) < threads && channels > tile_columns) {
      channels = largest(p.channels, channels / 2);
    }
    down = p.channels / channels;
    across = p.features / features;
  }
  std::int64_t count() const { return down * across; }
  std::int64_t size() const { return positions * channels * features; }

  // The largest divisor that is a multiple of 16, at most so large.
  static std::int64_t largest(std::int64_t number, std::int64_t most) {
    std::int64_t width = std::max(tile_columns, most / tile_columns * tile_columns);
    while (number % width != 0) width -= tile_columns;
    return width;
  }
};

// sums [rows, 16] += the outer products of `count` squares' channels, from x, and features, from z.
template <int rows>
__attribute__((target("avx2,fma"))) void add_products(const float* x, std::int64_t x_step,
                                                      const float* z, std::int64_t z_step,
                                                      std::int64_t count, float* sums,
                                                      std::int64_t sums_step, bool first) {
  __m256 acc[rows][2];
#pragma GCC unroll 6
  for (int i = 0; i < rows; ++i) {
    acc[i][0] = first ? _mm256_setzero_ps() : _mm256_load_ps(sums + i * sums_step);
    acc[i][1] = first ? _mm256_setzero_ps() : _mm256_load_ps(sums + i * sums_step + 8);
  }
  for (std::int64_t k = 0; k < count; ++k, x += x_step, z += z_step) {
    const __m256 low = _mm256_load_ps(z), high = _mm256_load_ps(z + 8);
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

using AddProducts = void (*)(const float*, std::int64_t, const float*, std::int64_t, std::int64_t,
                             float*, std::int64_t, bool);
constexpr AddProducts add_products_of[] = {nullptr,         add_products<1>, add_products<2>,
                                           add_products<3>, add_products<4>, add_products<5>,
                                           add_products<6>};

// Transformed pixels of one round: [block][position][square][channels of the block].
struct Round {
  std::int64_t first, count;  // squares
  std::int64_t width, plane;  // of a block's channels; of a position
  float* numbers;

  const float* at(std::int64_t block, std::int64_t position, std::int64_t square) const {
    return numbers + (block * positions + position) * plane + square * width;
  }
};

void add_block(const Blocks& blocks, const Round& x, const Round& dy, std::int64_t block,
               float* sums) {
  const std::int64_t down = block / blocks.across, across = block % blocks.across;
  const std::int64_t cuts = ceil_div(blocks.channels, tile_rows);
  for (std::int64_t k = 0; k < positions; ++k) {
    for (std::int64_t begin = 0; begin < x.count; begin += squares_together) {
      const std::int64_t count = std::min(squares_together, x.count - begin);
      const bool first = x.first + begin == 0;
      for (std::int64_t f = 0; f < blocks.features; f += tile_columns) {
        for (std::int64_t cut = 0; cut < cuts; ++cut) {
          const std::int64_t c = blocks.channels * cut / cuts;
          const std::int64_t rows = blocks.channels * (cut + 1) / cuts - c;
          add_products_of[rows](x.at(down, k, begin) + c, x.width, dy.at(across, k, begin) + f,
                                dy.width, count,
                                sums + (k * blocks.channels + c) * blocks.features + f,
                                blocks.features, first);
        }
      }
    }
  }
}

// A block's sums to the kernel [3, 3, channels, features].
__attribute__((target("avx2,fma"))) void store_block(const Problem& p, const Blocks& blocks,
                                                     std::int64_t block, const float* sums,
                                                     float* dkernel) {
  const std::int64_t plane = blocks.channels * blocks.features;
  float* const to = dkernel + block / blocks.across * blocks.channels * p.features +
                    block % blocks.across * blocks.features;
  for (std::int64_t c = 0; c < blocks.channels; ++c) {
    for (std::int64_t f = 0; f < blocks.features; f += lanes) {
      __m256 half[3][window];
      for (int j = 0; j < window; ++j) {
        __m256 line[window], values[3];
        for (int i = 0; i < window; ++i) {
          line[i] = _mm256_load_ps(sums + (i * window + j) * plane + c * blocks.features + f);
        }
        to_kernel(line, values);
        for (int i = 0; i < 3; ++i) half[i][j] = values[i];
      }
      for (int i = 0; i < 3; ++i) {
        __m256 values[3];
        to_kernel(half[i], values);
        for (int j = 0; j < 3; ++j) {
          _mm256_storeu_ps(to + ((i * 3 + j) * p.channels + c) * p.features + f, values[j]);
        }
      }
    }
  }
}

bool can(const Problem& p) { return winograd.can(p); }

bool pays(const Problem&) { return true; }

void run(const Problem& p, const float* x, const float* dy, float* dkernel,
         const Executor& executor) {
  const Product product = forward_product(p, x, nullptr);
  const Squares squares(product);
  const Blocks blocks(p, executor.threads());
  const std::int64_t number = sizeof(float), all = squares.count();
  const std::int64_t square_bytes = positions * (p.channels + p.features) * number;
  const std::int64_t round_bytes =
      std::max(least_round_bytes, positions * p.channels * p.features * number);
  const std::int64_t rounds = std::max<std::int64_t>(1, all * square_bytes / round_bytes);
  const std::int64_t most = ceil_div(all, rounds);
  thread_local Scratch x_scratch, dy_scratch, sums_scratch;
  Round images{0, 0, blocks.channels, plane_of(most * blocks.channels), nullptr};
  Round slopes{0, 0, blocks.features, plane_of(most * blocks.features), nullptr};
  images.numbers = static_cast<float*>(
      x_scratch.get(blocks.down * positions * images.plane * number));
  slopes.numbers = static_cast<float*>(
      dy_scratch.get(blocks.across * positions * slopes.plane * number));
  auto* const sums = static_cast<float*>(
      rounds > 1 ? sums_scratch.get(blocks.count() * blocks.size() * number) : nullptr);
  const std::vector<float> zeros(std::max(p.channels, p.features), 0.0f);

  for (std::int64_t round = 0; round < rounds; ++round) {
    images.first = slopes.first = all * round / rounds;
    images.count = slopes.count = all * (round + 1) / rounds - images.first;
    const std::int64_t parts = std::min(images.count, 4 * executor.threads());
    executor.run(parts, [&](std::int64_t part) {
      const float* from[positions];
      const std::int64_t end = images.count * (part + 1) / parts;
      for (std::int64_t i = images.count * part / parts; i < end; ++i) {
        const Square square(squares, images.first + i);
        square.pixels<window>(x, p.height, p.width, p.channels, -p.top, -p.left, zeros.data(),
                              from);
        for (std::int64_t b = 0; b < blocks.down; ++b) {
          transform_pixels<window, evaluate_source>(
              from, b * images.width, images.width, images.plane,
              images.numbers + b * positions * images.plane + i * images.width);
        }
        square.pixels<window_step>(dy, p.out_height, p.out_width, p.features, 0, 0, zeros.data(),
                                   from);
        for (std::int64_t b = 0; b < blocks.across; ++b) {
          transform_pixels<window_step, evaluate_result>(
              from, b * slopes.width, slopes.width, slopes.plane,
              slopes.numbers + b * positions * slopes.plane + i * slopes.width);
        }
      }
    });
    executor.run(blocks.count(), [&](std::int64_t block) {
      thread_local Scratch own;
      float* const block_sums =
          rounds > 1 ? sums + block * blocks.size()
                     : static_cast<float*>(own.get(blocks.size() * number));
      add_block(blocks, images, slopes, block, block_sums);
      if (round + 1 == rounds) store_block(p, blocks, block, block_sums, dkernel);
    });
  }
}

}  // namespace

const GradientWay winograd_gradient{"winograd", can, pays, run};

}  // namespace flax_resnet
