// Why: XLA:CPU's forward pass reads its windows number by number, and its gradient searches for each
// maximum again. Here pixels go by with all their channels, eight numbers at once, and the forward
// pass in training keeps one byte a window, as models/lowerings/pooling.py does without this library.
#include "pooling.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "problem.h"

namespace flax_resnet {
namespace {

constexpr std::int64_t chunk = 32;  // channels whose maxima stay in registers
constexpr std::int64_t rows_together = 8;

// The compiler makes vectors of these loops.
#define AVX2 __attribute__((target("avx2")))

template <bool with_places>
AVX2 void take_larger(const float* x, std::int64_t place, std::int64_t count, float* best,
                      std::int32_t* places) {
  for (std::int64_t c = 0; c < count; ++c) {
    const bool better = (x[c] > best[c]) | (x[c] != x[c]);
    best[c] = better ? x[c] : best[c];
    if (with_places) places[c] = better ? static_cast<std::int32_t>(place) : places[c];
  }
}

AVX2 void add_chosen(const float* dy, const std::uint8_t* places, std::int64_t place,
                     std::int64_t count, float* dx) {
  for (std::int64_t c = 0; c < count; ++c) dx[c] += places[c] == place ? dy[c] : 0.0f;
}

// The places of a window, along one direction, that lie in the images.
struct Span {
  std::int64_t begin, end;

  Span(std::int64_t first, std::int64_t window, std::int64_t size)
      : begin(std::max<std::int64_t>(0, -first)), end(std::min(window, size - first)) {}
};

void pool_pixel(const Pool& p, const float* image, std::int64_t row, std::int64_t column, float* y,
                std::uint8_t* places) {
  const std::int64_t top = row * p.stride - p.padding, left = column * p.stride - p.padding;
  const Span rows(top, p.window, p.height), columns(left, p.window, p.width);
  for (std::int64_t first = 0; first < p.channels; first += chunk) {
    const std::int64_t count = std::min(chunk, p.channels - first);
    float best[chunk];
    std::int32_t found[chunk] = {};
    std::fill(best, best + chunk, -std::numeric_limits<float>::infinity());
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      const float* x = image + ((top + i) * p.width + left) * p.channels + first;
      for (std::int64_t j = columns.begin; j < columns.end; ++j) {
        const std::int64_t place = i * p.window + j;
        if (places == nullptr) {
          take_larger<false>(x + j * p.channels, place, count, best, found);
        } else {
          take_larger<true>(x + j * p.channels, place, count, best, found);
        }
      }
    }
    std::memcpy(y + first, best, count * sizeof(float));
    if (places == nullptr) continue;
    for (std::int64_t c = 0; c < count; ++c) {
      places[first + c] = static_cast<std::uint8_t>(found[c]);
    }
  }
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
      pool_pixel(p, x + image * p.height * p.width * p.channels, row, column, y + at,
                 places == nullptr ? nullptr : places + at);
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
