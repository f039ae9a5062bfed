// The kernel gradient of float32 3x3 convolutions of stride 1 with fewer multiplications: Winograd's
// (winograd.h) turned round. Windows of the image and squares of dy are transformed; at each of the
// 36 positions the products of their channels and features are summed over the squares; the sums are
// transformed to the 3x3 matrices.
#include <immintrin.h>

#include <algorithm>
#include <vector>

#include "outer_products.h"
#include "ways.h"
#include "winograd.h"

namespace flax_resnet {
namespace {

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

// A block's sums to the kernel [3, 3, channels, features].
__attribute__((target("avx2,fma"))) void store_block(const Problem& p, const SumBlocks& blocks,
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
  const Squares squares(p.images, p.out_height, p.out_width);
  const SumBlocks blocks(positions, p.channels, p.features, executor.threads());
  const std::vector<float> zeros(std::max(p.channels, p.features), 0.0f);
  const auto fill = [&](std::int64_t index, std::int64_t at, const Round& images,
                        const Round& slopes) {
    const Square square(squares, index);
    const float* from[positions];
    square.pixels<window>(x, p.height, p.width, p.channels, -p.top, -p.left, zeros.data(), from);
    for (std::int64_t panel = 0; panel < images.panels; ++panel) {
      transform_pixels<window, evaluate_source>(from, panel * tile_columns, tile_columns,
                                                images.plane, images.at(panel, 0, at));
    }
    square.pixels<window_step>(dy, p.out_height, p.out_width, p.features, 0, 0, zeros.data(),
                               from);
    for (std::int64_t panel = 0; panel < slopes.panels; ++panel) {
      transform_pixels<window_step, evaluate_result>(from, panel * tile_columns, tile_columns,
                                                     slopes.plane, slopes.at(panel, 0, at));
    }
  };
  sum_outer_products(blocks, squares.count(), executor, fill,
                     [&](std::int64_t block, const float* sums) {
                       store_block(p, blocks, block, sums, dkernel);
                     });
}

}  // namespace

const GradientWay winograd_gradient{"winograd", can, pays, run};

}  // namespace flax_resnet
