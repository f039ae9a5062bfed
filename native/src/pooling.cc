// Max-pool on processors with AVX2.
//
// Why: XLA:CPU's forward pass reads its windows number by number, and its gradient searches for each
// maximum again. Here pixels go by with all their channels, eight numbers at once, and the forward
// pass in training keeps one byte a window, as models/lowerings/pooling.py does without this library.
#include "pooling.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "problem.h"

namespace flax_resnet {
namespace {

constexpr std::int64_t lanes = 8;
constexpr std::int64_t chunk = 4 * lanes;  // channels whose maxima and their places stay in registers
constexpr std::int64_t rows_together = 8;

#define AVX2 __attribute__((target("avx2")))

// The places of a window, along one direction, that lie in the images.
struct Span {
  std::int64_t begin, end;

  Span(std::int64_t first, std::int64_t window, std::int64_t size)
      : begin(std::max<std::int64_t>(0, -first)), end(std::min(window, size - first)) {}
};

// `vectors` times eight channels of the pixels of a window; `x` is its first pixel, there or not.
template <int vectors, bool with_places>
AVX2 void pool_vectors(const Pool& p, const float* x, const Span& rows, const Span& columns,
                       float* y, std::uint8_t* places) {
  __m256 best[vectors];
  __m256i found[vectors];
  for (int v = 0; v < vectors; ++v) {
    best[v] = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
    found[v] = _mm256_setzero_si256();
  }
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = columns.begin; j < columns.end; ++j) {
      const float* const pixel = x + (i * p.width + j) * p.channels;
      const __m256i place = _mm256_set1_epi32(static_cast<int>(i * p.window + j));
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const __m256 here = _mm256_loadu_ps(pixel + lanes * v);
        const __m256 better = _mm256_or_ps(_mm256_cmp_ps(here, best[v], _CMP_GT_OQ),
                                           _mm256_cmp_ps(here, here, _CMP_UNORD_Q));
        best[v] = _mm256_blendv_ps(best[v], here, better);
        if (with_places) {
          found[v] = _mm256_blendv_epi8(found[v], place, _mm256_castps_si256(better));
        }
      }
    }
  }
  for (int v = 0; v < vectors; ++v) {
    _mm256_storeu_ps(y + lanes * v, best[v]);
    if (!with_places) continue;
    alignas(32) std::int32_t numbers[lanes];
    _mm256_store_si256(reinterpret_cast<__m256i*>(numbers), found[v]);
    for (std::int64_t c = 0; c < lanes; ++c) {
      places[lanes * v + c] = static_cast<std::uint8_t>(numbers[c]);
    }
  }
}

// One channel.
void pool_number(const Pool& p, const float* x, const Span& rows, const Span& columns, float* y,
                 std::uint8_t* place) {
  float best = -std::numeric_limits<float>::infinity();
  std::int64_t found = 0;
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = columns.begin; j < columns.end; ++j) {
      const float here = x[(i * p.width + j) * p.channels];
      if (!(here > best || here != here)) continue;
      best = here;
      found = i * p.window + j;
    }
  }
  *y = best;
  if (place != nullptr) *place = static_cast<std::uint8_t>(found);
}

template <bool with_places>
void pool_pixel(const Pool& p, const float* image, std::int64_t row, std::int64_t column, float* y,
                std::uint8_t* places) {
  const std::int64_t top = row * p.stride - p.padding, left = column * p.stride - p.padding;
  const Span rows(top, p.window, p.height), columns(left, p.window, p.width);
  const float* const x = image + (top * p.width + left) * p.channels;
  std::int64_t c = 0;
  const auto place = [&] { return with_places ? places + c : nullptr; };
  for (; c + chunk <= p.channels; c += chunk) {
    pool_vectors<chunk / lanes, with_places>(p, x + c, rows, columns, y + c, place());
  }
  for (; c + lanes <= p.channels; c += lanes) {
    pool_vectors<1, with_places>(p, x + c, rows, columns, y + c, place());
  }
  for (; c < p.channels; ++c) pool_number(p, x + c, rows, columns, y + c, place());
}

// The compiler makes vectors of this loop.
AVX2 void add_chosen(const float* dy, const std::uint8_t* places, std::int64_t place,
                     std::int64_t count, float* dx) {
  for (std::int64_t c = 0; c < count; ++c) dx[c] += places[c] == place ? dy[c] : 0.0f;
}

// The windows, along one direction, that hold a pixel.
struct Windows {
  std::int64_t begin, end;

  Windows(std::int64_t pixel, const Pool& p, std::int64_t count)
      : begin(std::max<std::int64_t>(0, ceil_div(std::max<std::int64_t>(
                                                     0, pixel + p.padding - p.window + 1),
                                                 p.stride))),
        end(std::min(count, (pixel + p.padding) / p.stride + 1)) {}
};

void gradient_pixel(const Pool& p, const float* dy, const std::uint8_t* places, std::int64_t row,
                    std::int64_t column, float* dx) {
  std::memset(dx, 0, p.channels * sizeof(float));
  const Windows rows(row, p, p.out_height), columns(column, p, p.out_width);
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = columns.begin; j < columns.end; ++j) {
      const std::int64_t place = (row + p.padding - i * p.stride) * p.window + column + p.padding -
                                 j * p.stride;
      const std::int64_t at = (i * p.out_width + j) * p.channels;
      add_chosen(dy + at, places + at, place, p.channels, dx);
    }
  }
}

// Calls visit(image, row) for some rows of some images on each thread.
template <typename Visit>
void for_rows(std::int64_t images, std::int64_t rows, const Executor& executor, Visit visit) {
  const std::int64_t bands = ceil_div(rows, rows_together);
  executor.run(images * bands, [&](std::int64_t part) {
    const std::int64_t band = part % bands;
    for (std::int64_t row = rows * band / bands; row < rows * (band + 1) / bands; ++row) {
      visit(part / bands, row);
    }
  });
}

}  // namespace

void max_pool(const Pool& p, const float* x, float* y, std::uint8_t* places,
              const Executor& executor) {
  for_rows(p.images, p.out_height, executor, [&](std::int64_t image, std::int64_t row) {
    for (std::int64_t column = 0; column < p.out_width; ++column) {
      const std::int64_t at = ((image * p.out_height + row) * p.out_width + column) * p.channels;
      const float* const from = x + image * p.height * p.width * p.channels;
      if (places != nullptr) {
        pool_pixel<true>(p, from, row, column, y + at, places + at);
      } else {
        pool_pixel<false>(p, from, row, column, y + at, nullptr);
      }
    }
  });
}

void max_pool_gradient(const Pool& p, const float* dy, const std::uint8_t* places, float* dx,
                       const Executor& executor) {
  for_rows(p.images, p.height, executor, [&](std::int64_t image, std::int64_t row) {
    const std::int64_t result = image * p.out_height * p.out_width * p.channels;
    for (std::int64_t column = 0; column < p.width; ++column) {
      const std::int64_t at = ((image * p.height + row) * p.width + column) * p.channels;
      gradient_pixel(p, dy + result, places + result, row, column, dx + at);
    }
  });
}

}  // namespace flax_resnet
