// Winograd's F(4x4, 3x3) (Lavin and Gray 2015, arXiv:1509.09308), what its passes share.
//
// 36 multiplications for 16 sums of 9 products: windows of 6x6 pixels of the source, four apart, and
// the kernel's 3x3 matrices are transformed; at each of the 36 positions the windows' channels are
// multiplied with a matrix; the products are transformed to 4x4 pixels of the result.
//
// The polynomials behind it are evaluated at 0, +-2/3, +-3/2 and infinity in place of the usual 0,
// +-1, +-2 and infinity: points that are each other's reciprocals halve the rounding errors (as
// Alam et al. 2022, arXiv:2201.10369, found). At 256 channels these are 1.1e-6 of the result,
// where sums of products have 2e-7 and the usual points 2.3e-6.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "problem.h"

namespace flax_resnet {

constexpr std::int64_t window = 6, window_step = 4, positions = window * window;
constexpr std::int64_t lanes = 8;

// The points' squares, and so on: reciprocal, so that the product of the squares is 1.
constexpr float p1 = 2.0f / 3, q1 = 3.0f / 2, p2 = p1 * p1, q2 = q1 * q1;
// What the other points leave of the polynomial at each pair, inverted.
constexpr float by_p = 1 / (2 * p2 * (p2 - q2)), by_q = 1 / (2 * q2 * (q2 - p2));

#define AVX2 __attribute__((target("avx2,fma"))) inline

AVX2 __m256 all(float number) { return _mm256_set1_ps(number); }

// Six pixels in a line, as coefficients of a polynomial, evaluated.
AVX2 void evaluate_source(const __m256 (&d)[window], __m256 (&to)[window]) {
  const __m256 even_p = _mm256_fnmadd_ps(all(q2), d[2], d[4]);
  const __m256 odd_p = _mm256_fnmadd_ps(all(q2), d[1], d[3]);
  const __m256 even_q = _mm256_fnmadd_ps(all(p2), d[2], d[4]);
  const __m256 odd_q = _mm256_fnmadd_ps(all(p2), d[1], d[3]);
  to[0] = _mm256_fnmadd_ps(all(p2 + q2), d[2], _mm256_add_ps(d[0], d[4]));
  to[1] = _mm256_fmadd_ps(all(p1), odd_p, even_p);
  to[2] = _mm256_fnmadd_ps(all(p1), odd_p, even_p);
  to[3] = _mm256_fmadd_ps(all(q1), odd_q, even_q);
  to[4] = _mm256_fnmadd_ps(all(q1), odd_q, even_q);
  to[5] = _mm256_fnmadd_ps(all(p2 + q2), d[3], _mm256_add_ps(d[1], d[5]));
}

// A square of pixels, `from` one after another, `width` channels of each, by `evaluate` along both
// axes to one row of each position's matrix, those `plane` apart.
template <int size, void evaluate(const __m256 (&)[size], __m256 (&)[window])>
__attribute__((target("avx2,fma"))) void transform_pixels(const float* const* from,
                                                          std::int64_t first, std::int64_t width,
                                                          std::int64_t plane, float* to) {
  __m256 half[window][size];
  for (std::int64_t c = 0; c < width; c += lanes) {
    for (int j = 0; j < size; ++j) {
      __m256 line[size], values[window];
#pragma GCC unroll 6
      for (int i = 0; i < size; ++i) line[i] = _mm256_loadu_ps(from[i * size + j] + first + c);
      evaluate(line, values);
#pragma GCC unroll 6
      for (int i = 0; i < window; ++i) half[i][j] = values[i];
    }
    for (int i = 0; i < window; ++i) {
      __m256 values[window];
      evaluate(half[i], values);
#pragma GCC unroll 6
      for (int j = 0; j < window; ++j) {
        _mm256_store_ps(to + (i * window + j) * plane + c, values[j]);
      }
    }
  }
}

// The result in squares of 4x4 pixels, those of all images in a row.
struct Squares {
  std::int64_t images, down, across;

  Squares(std::int64_t images, std::int64_t rows, std::int64_t columns)
      : images(images),
        down(ceil_div(rows, window_step)),
        across(ceil_div(columns, window_step)) {}
  std::int64_t count() const { return images * down * across; }
};

// One of them, by its first pixel.
struct Square {
  std::int64_t image, row, column;

  Square(const Squares& all, std::int64_t index)
      : image(index / all.across / all.down),
        row(index / all.across % all.down * window_step),
        column(index % all.across * window_step) {}

  // The pixels of `size` x `size` of an array [images, height, width, channels], from (top, left)
  // of the square's first on; `zeros` where there is none.
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

}  // namespace flax_resnet
