// The Winograd kernel gradient (winograd.h) of float32 3x3 convolutions of stride 1.
//
// Input tiles of the images and output tiles of dy are transformed; at each of the 36 transform
// points the products of their channels and features are summed over all tiles; the sums are
// transformed to the 3x3 filters.
#include <immintrin.h>

#include <algorithm>
#include <vector>

#include "algorithms.h"
#include "outer_products.h"
#include "winograd.h"

namespace flax_resnet {
namespace {

// The 1-D transform of the output's gradient: four pixels of dy in a line to the six transform
// points.
AVX2 void output_gradient_transform(const __m256 (&y)[output_tile], __m256 (&to)[input_tile]) {
  const __m256 even_p = _mm256_fmadd_ps(broadcast(p2), y[2], y[0]);
  const __m256 even_q = _mm256_fmadd_ps(broadcast(q2), y[2], y[0]);
  const __m256 odd_p = _mm256_fmadd_ps(broadcast(p2), y[3], y[1]);
  const __m256 odd_q = _mm256_fmadd_ps(broadcast(q2), y[3], y[1]);
  to[0] = y[0];
  to[1] = _mm256_fmadd_ps(broadcast(p1), odd_p, even_p);
  to[2] = _mm256_fnmadd_ps(broadcast(p1), odd_p, even_p);
  to[3] = _mm256_fmadd_ps(broadcast(q1), odd_q, even_q);
  to[4] = _mm256_fnmadd_ps(broadcast(q1), odd_q, even_q);
  to[5] = y[3];
}

// The 1-D transform of the filter's gradient: six sums in a line to three weights.
AVX2 void filter_gradient_transform(const __m256 (&u)[input_tile], __m256 (&to)[3]) {
  const __m256 sum_p = _mm256_add_ps(u[1], u[2]), sum_q = _mm256_add_ps(u[3], u[4]);
  const __m256 difference_p = _mm256_sub_ps(u[1], u[2]), difference_q = _mm256_sub_ps(u[3], u[4]);
  to[0] = _mm256_fmadd_ps(broadcast(lagrange_p), sum_p,
                          _mm256_fmadd_ps(broadcast(lagrange_q), sum_q, u[0]));
  to[1] = _mm256_fmadd_ps(broadcast(lagrange_p * p1), difference_p,
                          _mm256_mul_ps(broadcast(lagrange_q * q1), difference_q));
  to[2] = _mm256_fmadd_ps(broadcast(lagrange_p * p2), sum_p,
                          _mm256_fmadd_ps(broadcast(lagrange_q * q2), sum_q, u[5]));
}

// Transforms a block's sums and writes them to the kernel's gradient [3, 3, channels, features].
__attribute__((target("avx2,fma"))) void store_block(const Problem& p, const SumBlocks& blocks,
                                                     std::int64_t block, const float* sums,
                                                     float* dkernel) {
  const std::int64_t plane = blocks.channels * blocks.features;
  float* const to = dkernel + block / blocks.block_columns * blocks.channels * p.features +
                    block % blocks.block_columns * blocks.features;
  for (std::int64_t c = 0; c < blocks.channels; ++c) {
    for (std::int64_t f = 0; f < blocks.features; f += lanes) {
      __m256 half[3][input_tile];
      for (int j = 0; j < input_tile; ++j) {
        __m256 line[input_tile], values[3];
        for (int i = 0; i < input_tile; ++i) {
          line[i] = _mm256_load_ps(sums + (i * input_tile + j) * plane + c * blocks.features + f);
        }
        filter_gradient_transform(line, values);
        for (int i = 0; i < 3; ++i) half[i][j] = values[i];
      }
      for (int i = 0; i < 3; ++i) {
        __m256 values[3];
        filter_gradient_transform(half[i], values);
        for (int j = 0; j < 3; ++j) {
          _mm256_storeu_ps(to + ((i * 3 + j) * p.channels + c) * p.features + f, values[j]);
        }
      }
    }
  }
}

bool is_supported(const Problem& p) { return winograd.is_supported(p); }

bool is_profitable(const Problem&) { return true; }

void run(const Problem& p, const float* x, const float* dy, float* dkernel,
         const Executor& executor) {
  const OutputTiles tiles(p.images, p.out_height, p.out_width);
  const SumBlocks blocks(transform_points, p.channels, p.features, executor.threads());
  const std::vector<float> zeros(std::max(p.channels, p.features), 0.0f);
  const auto pack_tile = [&](std::int64_t index, std::int64_t slot, const PackedChunk& images,
                             const PackedChunk& gradients) {
    const OutputTile tile(tiles, index);
    const float* from[transform_points];
    tile.pixels<input_tile>(x, p.height, p.width, p.channels, -p.top, -p.left, zeros.data(), from);
    for (std::int64_t panel = 0; panel < images.panels; ++panel) {
      transform_tile<input_tile, input_transform>(from, panel * nr, nr, images.plane,
                                                  images.at(panel, 0, slot));
    }
    tile.pixels<output_tile>(dy, p.out_height, p.out_width, p.features, 0, 0, zeros.data(), from);
    for (std::int64_t panel = 0; panel < gradients.panels; ++panel) {
      transform_tile<output_tile, output_gradient_transform>(from, panel * nr, nr, gradients.plane,
                                                             gradients.at(panel, 0, slot));
    }
  };
  sum_outer_products(
      blocks, tiles.count(), executor, pack_tile,
      [&](std::int64_t block, const float* sums) { store_block(p, blocks, block, sums, dkernel); });
}

}  // namespace

const KernelGradientAlgorithm winograd_kernel_gradient{"winograd", is_supported, is_profitable,
                                                       run};

}  // namespace flax_resnet
