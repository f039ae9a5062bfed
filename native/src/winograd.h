// Winograd's F(4x4, 3x3) (Lavin and Gray 2015, arXiv:1509.09308): the transforms and tiles that the
// forward pass and both gradients share.
//
// 36 multiplications replace 16 * 9. Input tiles of 6x6 pixels, which overlap by two, and the 3x3
// filters are transformed; at each of the 36 transform points one GEMM multiplies the tiles'
// channels with a matrix of the filters; and the products are transformed to 4x4 output tiles.
//
// The interpolation points are 0, +-2/3, +-3/2 and infinity instead of the usual 0, +-1, +-2 and
// infinity: points that are each other's reciprocals halve the rounding errors (Alam et al. 2022,
// arXiv:2201.10369). At 256 channels the error is 1.1e-6 of the result, where sums of products have
// 2e-7 and the usual points 2.3e-6.
#pragma once

#include <algorithm>
#include <cstdint>

#include "problem.h"
#include "vector.h"

namespace flax_resnet::ISA {

// The sides of an input and an output tile, and the number of transform points.
constexpr std::int64_t input_tile = 6, output_tile = 4, transform_points = input_tile * input_tile;

// The interpolation points are +-p1 and +-q1; p2 is p1 * p1 and q2 is q1 * q1. Since p1 * q1 = 1,
// the factor p2 * q2 of the transforms is left out.
constexpr float p1 = 2.0f / 3, q1 = 3.0f / 2, p2 = p1 * p1, q2 = q1 * q1;
// The Lagrange weights of both pairs of points: one over the product of the distances to the
// others.
constexpr float lagrange_p = 1 / (2 * p2 * (p2 - q2)), lagrange_q = 1 / (2 * q2 * (q2 - p2));

// The 1-D input transform: six pixels in a line to the six transform points.
SIMD_INLINE void input_transform(const Vector (&d)[input_tile], Vector (&to)[input_tile]) {
  const Vector even_p = fnmadd(broadcast(q2), d[2], d[4]);
  const Vector odd_p = fnmadd(broadcast(q2), d[1], d[3]);
  const Vector even_q = fnmadd(broadcast(p2), d[2], d[4]);
  const Vector odd_q = fnmadd(broadcast(p2), d[1], d[3]);
  to[0] = fnmadd(broadcast(p2 + q2), d[2], add(d[0], d[4]));
  to[1] = fmadd(broadcast(p1), odd_p, even_p);
  to[2] = fnmadd(broadcast(p1), odd_p, even_p);
  to[3] = fmadd(broadcast(q1), odd_q, even_q);
  to[4] = fnmadd(broadcast(q1), odd_q, even_q);
  to[5] = fnmadd(broadcast(p2 + q2), d[3], add(d[1], d[5]));
}

// Applies a 1-D transform along both axes of a tile. `from` points to its size x size pixels, of
// which `width` channels from `first` on are transformed. The result is one row of each transform
// point's matrix; the matrices are `plane` floats apart.
template <int size, void transform(const Vector (&)[size], Vector (&)[input_tile])>
SIMD void transform_tile(const float* const* from, std::int64_t first, std::int64_t width,
                         std::int64_t plane, float* to) {
  Vector half[input_tile][size];
  for (std::int64_t c = 0; c < width; c += lanes) {
    for (int j = 0; j < size; ++j) {
      Vector line[size], values[input_tile];
#pragma GCC unroll 6
      for (int i = 0; i < size; ++i) line[i] = load(from[i * size + j] + first + c);
      transform(line, values);
#pragma GCC unroll 6
      for (int i = 0; i < input_tile; ++i) half[i][j] = values[i];
    }
    for (int i = 0; i < input_tile; ++i) {
      Vector values[input_tile];
      transform(half[i], values);
#pragma GCC unroll 6
      for (int j = 0; j < input_tile; ++j) {
        store(to + (i * input_tile + j) * plane + c, values[j]);
      }
    }
  }
}

// The output tiles of all images, numbered one after another.
struct OutputTiles {
  std::int64_t images, down, across;

  OutputTiles(std::int64_t images, std::int64_t rows, std::int64_t columns)
      : images(images), down(ceil_div(rows, output_tile)), across(ceil_div(columns, output_tile)) {}
  std::int64_t count() const { return images * down * across; }
};

// One output tile, located by its first pixel.
struct OutputTile {
  std::int64_t image, row, column;

  OutputTile(const OutputTiles& tiles, std::int64_t index)
      : image(index / tiles.across / tiles.down),
        row(index / tiles.across % tiles.down * output_tile),
        column(index % tiles.across * output_tile) {}

  // Finds size x size pixels of an array [images, height, width, channels]. The first is at (top,
  // left) relative to the tile's first pixel. Pixels outside the array are pointers to `zeros`.
  template <int size>
  void pixels(const float* array, std::int64_t height, std::int64_t width, std::int64_t channels,
              std::int64_t top, std::int64_t left, const float* zeros, const float** to) const {
    for (std::int64_t i = row + top; i < row + top + size; ++i) {
      for (std::int64_t j = column + left; j < column + left + size; ++j) {
        const bool inside = i >= 0 && i < height && j >= 0 && j < width;
        *to++ = inside ? array + ((image * height + i) * width + j) * channels : zeros;
      }
    }
  }
};

}  // namespace flax_resnet::ISA
