// Float32 3x3 convolutions of stride 1, forward and input gradient, with fewer multiplications.
// Winograd's; winograd.h tells how.
#include <immintrin.h>

#include <algorithm>
#include <vector>

#include "panels.h"
#include "scratch.h"
#include "tile.h"
#include "ways.h"
#include "winograd.h"

namespace flax_resnet {
namespace {

// Transformed windows of a part, in bytes, and panels whose products are kept together: both stay in
// the second-level cache.
constexpr std::int64_t part_bytes = 512 * 1024;
constexpr std::int64_t panels_together = 4;
// Of few windows' matrices the next panel is asked for while one is multiplied, as in indirect.cc: a
// line every so many steps, by at most as many tiles. (One 14x14 map: 1.1 times quicker.)
constexpr int steps_a_line = 4;
// Squares whose products take as long as the kernel's transformation, and as reading it.
constexpr std::int64_t squares_of_packing = 60, squares_of_reading = 10;

// Three numbers of the kernel in a line, evaluated and divided by what the others leave.
AVX2 void evaluate_kernel(const __m256 (&g)[3], __m256 (&to)[window]) {
  const __m256 even_p = _mm256_mul_ps(all(by_p), _mm256_fmadd_ps(all(p2), g[2], g[0]));
  const __m256 even_q = _mm256_mul_ps(all(by_q), _mm256_fmadd_ps(all(q2), g[2], g[0]));
  to[0] = g[0];
  to[1] = _mm256_fmadd_ps(all(by_p * p1), g[1], even_p);
  to[2] = _mm256_fnmadd_ps(all(by_p * p1), g[1], even_p);
  to[3] = _mm256_fmadd_ps(all(by_q * q1), g[1], even_q);
  to[4] = _mm256_fnmadd_ps(all(by_q * q1), g[1], even_q);
  to[5] = g[2];
}

// Six products in a line to four pixels of the result.
AVX2 void interpolate(const __m256 (&m)[window], __m256 (&to)[window_step]) {
  const __m256 sum_p = _mm256_add_ps(m[1], m[2]), sum_q = _mm256_add_ps(m[3], m[4]);
  const __m256 gap_p = _mm256_sub_ps(m[1], m[2]), gap_q = _mm256_sub_ps(m[3], m[4]);
  to[0] = _mm256_add_ps(m[0], _mm256_add_ps(sum_p, sum_q));
  to[1] = _mm256_fmadd_ps(all(p1), gap_p, _mm256_mul_ps(all(q1), gap_q));
  to[2] = _mm256_fmadd_ps(all(p2), sum_p, _mm256_mul_ps(all(q2), sum_q));
  to[3] = _mm256_fmadd_ps(all(p1 * p2), gap_p, _mm256_fmadd_ps(all(q1 * q2), gap_q, m[5]));
}

std::int64_t kernel_plane(const Product& p) { return plane_of(p.channels * p.features); }

std::int64_t packed_size(const Product& p) { return positions * kernel_plane(p); }

// The matrices of the kernel by the place of their taps.
struct Matrices {
  std::int64_t top, left;  // of the first tap
  const float* at[3][3];

  Matrices(const Product& p, const float* kernel) : top(p.taps[0].row), left(p.taps[0].column) {
    for (const Tap& tap : p.taps) {
      top = std::min(top, tap.row);
      left = std::min(left, tap.column);
    }
    for (const Tap& tap : p.taps) {
      at[tap.row - top][tap.column - left] = kernel + tap.kernel * p.channels * p.features;
    }
  }
};

// Eight of the 3x3 matrices, whose numbers lie `offset` from the first, transformed.
AVX2 void transform_kernel(const Matrices& matrices, std::int64_t offset, __m256 (&to)[positions]) {
  __m256 half[window][3];
  for (int j = 0; j < 3; ++j) {
    const __m256 line[3] = {_mm256_loadu_ps(matrices.at[0][j] + offset),
                            _mm256_loadu_ps(matrices.at[1][j] + offset),
                            _mm256_loadu_ps(matrices.at[2][j] + offset)};
    __m256 values[window];
    evaluate_kernel(line, values);
    for (int i = 0; i < window; ++i) half[i][j] = values[i];
  }
  for (int i = 0; i < window; ++i) {
    __m256 values[window];
    evaluate_kernel(half[i], values);
    for (int j = 0; j < window; ++j) to[i * window + j] = values[j];
  }
}

// A panel of 16 features: [position][panel][channel][16].
__attribute__((target("avx2,fma"))) void pack_panel(const Product& p, const Matrices& matrices,
                                                    std::int64_t panel, float* packed) {
  const std::int64_t plane = kernel_plane(p);
  float* const out = packed + panel * p.channels * tile_columns;
  __m256 values[positions];
  if (!p.transposed) {
    for (std::int64_t c = 0; c < p.channels; ++c) {
      for (std::int64_t f = 0; f < tile_columns; f += lanes) {
        transform_kernel(matrices, c * p.features + panel * tile_columns + f, values);
        for (int k = 0; k < positions; ++k) {
          _mm256_store_ps(out + k * plane + c * tile_columns + f, values[k]);
        }
      }
    }
    return;
  }
  alignas(32) float block[positions][lanes * lanes];
  for (std::int64_t c = 0; c < p.channels; c += lanes) {
    for (std::int64_t f = 0; f < tile_columns; f += lanes) {
      for (std::int64_t i = 0; i < lanes; ++i) {
        transform_kernel(matrices, (panel * tile_columns + f + i) * p.channels + c, values);
        for (int k = 0; k < positions; ++k) _mm256_store_ps(block[k] + i * lanes, values[k]);
      }
      for (int k = 0; k < positions; ++k) {
        transpose(block[k], lanes, out + k * plane + c * tile_columns + f);
      }
    }
  }
}

// What follows the sums of some features, and where the first of them goes.
struct Ending {
  const float *bias, *residual;  // or null
  float* result;
  bool relu;
};

// The products of one window, `width` features, to at most 4x4 pixels: `at` each, from the first of
// the result and the residual; negative: outside.
__attribute__((target("avx2,fma"))) void transform_products(const float* from, std::int64_t plane,
                                                            std::int64_t width,
                                                            const Ending& finish,
                                                            const std::int64_t* at) {
  alignas(32) __m256 half[window_step][window];
  const __m256 zero = _mm256_setzero_ps();
  for (std::int64_t f = 0; f < width; f += lanes) {
    for (int j = 0; j < window; ++j) {
      __m256 line[window], values[window_step];
#pragma GCC unroll 6
      for (int i = 0; i < window; ++i) {
        line[i] = _mm256_load_ps(from + (i * window + j) * plane + f);
      }
      interpolate(line, values);
#pragma GCC unroll 4
      for (int i = 0; i < window_step; ++i) half[i][j] = values[i];
    }
    const __m256 bias = finish.bias != nullptr ? _mm256_loadu_ps(finish.bias + f) : zero;
    for (int i = 0; i < window_step; ++i) {
      __m256 values[window_step];
      interpolate(half[i], values);
#pragma GCC unroll 4
      for (int j = 0; j < window_step; ++j) {
        const std::int64_t to = at[i * window_step + j];
        if (to < 0) continue;
        __m256 sum = _mm256_add_ps(values[j], bias);
        if (finish.residual != nullptr) {
          sum = _mm256_add_ps(sum, _mm256_loadu_ps(finish.residual + to + f));
        }
        if (finish.relu) sum = _mm256_max_ps(zero, sum);  // of a NaN, the second
        _mm256_storeu_ps(finish.result + to + f, sum);
      }
    }
  }
}

// Some windows and some panels: the work of one thread.
struct Part {
  std::int64_t first, count, first_panel, panels;
};

std::vector<Part> cut(const Product& p, const Squares& squares, std::int64_t threads) {
  const std::int64_t windows = squares.count(), panels = p.panels();
  const std::int64_t bytes = positions * p.channels * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t most = std::max<std::int64_t>(4 * tile_rows, part_bytes / bytes);
  const std::int64_t down = ceil_div(windows, most);
  const std::int64_t rows = down > threads ? ceil_div(down, threads) * threads : down;
  const std::int64_t across = rows >= threads ? 1 : std::min(panels, ceil_div(threads, rows));
  std::vector<Part> parts;
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < across; ++j) {
      const std::int64_t begin = windows * i / rows, from = panels * j / across;
      parts.push_back({begin, windows * (i + 1) / rows - begin, from,
                       panels * (j + 1) / across - from});
    }
  }
  return parts;
}

void run_part(const Product& p, const Squares& squares, const Matrices& matrices, const Part& part,
              const float* packed, const Epilogue& epilogue) {
  thread_local Scratch windows_scratch, products_scratch;
  thread_local std::vector<float> zeros;
  if (static_cast<std::int64_t>(zeros.size()) < p.channels) zeros.assign(p.channels, 0.0f);
  const std::int64_t plane = plane_of(part.count * p.channels);
  auto* const windows =
      static_cast<float*>(windows_scratch.get(positions * plane * sizeof(float)));
  for (std::int64_t i = 0; i < part.count; ++i) {
    const float* from[positions];
    Square(squares, part.first + i)
        .pixels<window>(p.source, p.height, p.width, p.channels, matrices.top, matrices.left,
                        zeros.data(), from);
    transform_pixels<window, evaluate_source>(from, 0, p.channels, plane, windows + i * p.channels);
  }

  const std::int64_t tiles = ceil_div(part.count, tile_rows);
  const std::int64_t width = std::min(panels_together, part.panels) * tile_columns;
  const std::int64_t products_plane = plane_of(tiles * tile_rows * width);
  auto* const products =
      static_cast<float*>(products_scratch.get(positions * products_plane * sizeof(float)));
  const auto* const bias = static_cast<const float*>(epilogue.bias);
  const auto* const residual = static_cast<const float*>(epilogue.residual);
  const std::int64_t end = part.first_panel + part.panels;
  for (std::int64_t first = part.first_panel; first < end; first += panels_together) {
    const std::int64_t last = std::min(end, first + panels_together);
    for (std::int64_t k = 0; k < positions; ++k) {
      for (std::int64_t panel = first; panel < last; ++panel) {
        const float* const matrix =
            packed + k * kernel_plane(p) + panel * p.channels * tile_columns;
        const float* const next =
            panel + 1 < last ? matrix + p.channels * tile_columns
                             : packed + (k + 1) * kernel_plane(p) + first * p.channels * tile_columns;
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
          const float* sources[tile_rows];
          float* results[tile_rows];
          for (std::int64_t i = 0; i < tile_rows; ++i) {
            const std::int64_t row = tile * tile_rows + i;
            sources[i] = windows + k * plane + std::min(row, part.count - 1) * p.channels;
            results[i] = products + k * products_plane + row * width +
                         (panel - first) * tile_columns;
          }
          if (tiles <= steps_a_line) {
            const float* const share = next + tile * p.channels / steps_a_line * tile_columns;
            multiply<steps_a_line>(sources, 1, 0, p.channels, matrix, results, 0, true, nullptr,
                                   share);
          } else {
            multiply(sources, 1, 0, p.channels, matrix, results, 0, true, nullptr);
          }
        }
      }
    }
    const std::int64_t feature = first * tile_columns;
    const Ending finish{bias == nullptr ? nullptr : bias + feature, residual, p.result,
                        epilogue.relu};
    for (std::int64_t i = 0; i < part.count; ++i) {
      const Square square(squares, part.first + i);
      std::int64_t at[window_step * window_step];
      for (std::int64_t k = 0; k < window_step * window_step; ++k) {
        const std::int64_t row = square.row + k / window_step;
        const std::int64_t column = square.column + k % window_step;
        at[k] = row < p.rows && column < p.columns
                    ? square.image * p.image_step + row * p.row_step + column * p.column_step +
                          feature
                    : -1;
      }
      transform_products(products + i * width, products_plane, (last - first) * tile_columns,
                         finish, at);
    }
  }
}

void pack(const Product& p, const float* kernel, float* packed, const Executor& executor) {
  const Matrices matrices(p, kernel);
  executor.run(p.panels(), [&](std::int64_t panel) { pack_panel(p, matrices, panel, packed); });
}

void run(const Product& p, const float* packed, const Epilogue& epilogue,
         const Executor& executor) {
  const Squares squares(p.images, p.rows, p.columns);
  const Matrices matrices(p, nullptr);
  const auto parts = cut(p, squares, executor.threads());
  executor.run(static_cast<std::int64_t>(parts.size()), [&](std::int64_t i) {
    run_part(p, squares, matrices, parts[i], packed, epilogue);
  });
}

bool can(const Problem& p) {
  return own_kernels_suit(p) && p.groups == 1 && p.stride == 1 && p.kernel_height == 3 &&
         p.kernel_width == 3 && p.channels % tile_columns == 0 && p.features % tile_columns == 0;
}

// Transforming the kernel, or reading four times as much of it, takes as long as some squares.
bool pays(const Problem& p, bool packed) {
  const std::int64_t pixels = p.images * p.out_height * p.out_width;
  const std::int64_t squares = Squares(p.images, p.out_height, p.out_width).count();
  const std::int64_t more = packed ? squares_of_reading : squares_of_packing;
  return p.kernel_height * p.kernel_width * pixels >= positions * (squares + more);
}

}  // namespace

const Way winograd{"winograd", can, pays, packed_size, pack, run};

}  // namespace flax_resnet
