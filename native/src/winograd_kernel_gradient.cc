// The Winograd kernel gradient (winograd.h) of float32 3x3 convolutions of stride 1.
//
// Input tiles of the images and output tiles of dy are transformed; at each of the 36 transform
// points the products of their channels and features are summed over all tiles; the sums are
// transformed to the 3x3 filters.
#include <algorithm>
#include <vector>

#include "isa_algorithms.h"
#include "outer_products.h"
#include "winograd.h"

namespace flax_resnet::ISA {
namespace {

// The 1-D transform of the output's gradient: four pixels of dy in a line to the six transform
// points.
SIMD_INLINE void output_gradient_transform(const Vector (&y)[output_tile],
                                           Vector (&to)[input_tile]) {
  const Vector even_p = fmadd(broadcast(p2), y[2], y[0]);
  const Vector even_q = fmadd(broadcast(q2), y[2], y[0]);
  const Vector odd_p = fmadd(broadcast(p2), y[3], y[1]);
  const Vector odd_q = fmadd(broadcast(q2), y[3], y[1]);
  to[0] = y[0];
  to[1] = fmadd(broadcast(p1), odd_p, even_p);
  to[2] = fnmadd(broadcast(p1), odd_p, even_p);
  to[3] = fmadd(broadcast(q1), odd_q, even_q);
  to[4] = fnmadd(broadcast(q1), odd_q, even_q);
  to[5] = y[3];
}

// The 1-D transform of the filter's gradient: six sums in a line to three weights.
SIMD_INLINE void filter_gradient_transform(const Vector (&u)[input_tile], Vector (&to)[3]) {
  const Vector sum_p = add(u[1], u[2]), sum_q = add(u[3], u[4]);
  const Vector difference_p = subtract(u[1], u[2]), difference_q = subtract(u[3], u[4]);
  to[0] = fmadd(broadcast(lagrange_p), sum_p, fmadd(broadcast(lagrange_q), sum_q, u[0]));
  to[1] = fmadd(broadcast(lagrange_p * p1), difference_p,
                multiply(broadcast(lagrange_q * q1), difference_q));
  to[2] = fmadd(broadcast(lagrange_p * p2), sum_p, fmadd(broadcast(lagrange_q * q2), sum_q, u[5]));
}

// Transforms a block's sums and writes them to the kernel's gradient [3, 3, channels, features].
SIMD void store_block(const Problem& p, const SumBlocks& blocks, std::int64_t block,
                      const float* sums, float* dkernel) {
  const std::int64_t plane = blocks.channels * blocks.features;
  float* const to = dkernel + block / blocks.block_columns * blocks.channels * p.features +
                    block % blocks.block_columns * blocks.features;
  for (std::int64_t c = 0; c < blocks.channels; ++c) {
    for (std::int64_t f = 0; f < blocks.features; f += lanes) {
      Vector half[3][input_tile];
      for (int j = 0; j < input_tile; ++j) {
        Vector line[input_tile], values[3];
        for (int i = 0; i < input_tile; ++i) {
          line[i] = load(sums + (i * input_tile + j) * plane + c * blocks.features + f);
        }
        filter_gradient_transform(line, values);
        for (int i = 0; i < 3; ++i) half[i][j] = values[i];
      }
      for (int i = 0; i < 3; ++i) {
        Vector values[3];
        filter_gradient_transform(half[i], values);
        for (int j = 0; j < 3; ++j) {
          store(to + ((i * 3 + j) * p.channels + c) * p.features + f, values[j]);
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
      transform_tile<input_tile, input_transform>(from, panel * panel_channels, panel_channels,
                                                  images.plane, images.at(panel, 0, slot));
    }
    tile.pixels<output_tile>(dy, p.out_height, p.out_width, p.features, 0, 0, zeros.data(), from);
    for (std::int64_t panel = 0; panel < gradients.panels; ++panel) {
      transform_tile<output_tile, output_gradient_transform>(from, panel * panel_channels,
                                                             panel_channels, gradients.plane,
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

}  // namespace flax_resnet::ISA
