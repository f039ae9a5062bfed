// Max-pool.
//
// Why not XLA: its CPU backend reads windows one value at a time, and its gradient searches for
// each maximum again. Here a vector of channels is compared at once, and the forward pass in
// training keeps the index of each maximum in one byte, as models/lowerings/pooling.py does without
// this library.
#include "pooling.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "problem.h"
#include "vector.h"

namespace flax_resnet::ISA {
namespace {

constexpr std::int64_t chunk = 4 * lanes;  // Channels whose maxima and indices stay in registers.
constexpr std::int64_t rows_per_band = 8;

// The rows or columns of a window that lie inside the image.
struct Span {
  std::int64_t begin, end;

  Span(std::int64_t first, std::int64_t window, std::int64_t size)
      : begin(std::max<std::int64_t>(0, -first)), end(std::min(window, size - first)) {}
};

// Pools `vectors` vectors of channels of one window. `x` is the window's first pixel, which may
// lie outside the image.
template <int vectors, bool with_indices>
SIMD void pool_vectors(const Pool& p, const float* x, const Span& rows, const Span& columns,
                       float* y, std::uint8_t* indices) {
  Vector best[vectors];
  Bytes best_index[vectors];
  for (int v = 0; v < vectors; ++v) {
    best[v] = broadcast(-std::numeric_limits<float>::infinity());
    best_index[v] = broadcast_byte(0);
  }
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = columns.begin; j < columns.end; ++j) {
      const float* const pixel = x + (i * p.width + j) * p.channels;
      const Bytes index = broadcast_byte(i * p.window + j);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const Vector here = load(pixel + lanes * v);
        const Mask is_better = larger_or_nan(here, best[v]);
        best[v] = select(is_better, here, best[v]);
        if (with_indices) best_index[v] = select(is_better, index, best_index[v]);
      }
    }
  }
  for (int v = 0; v < vectors; ++v) {
    store(y + lanes * v, best[v]);
    if (with_indices) store(indices + lanes * v, best_index[v]);
  }
}

// Pools one channel of one window.
void pool_channel(const Pool& p, const float* x, const Span& rows, const Span& columns, float* y,
                  std::uint8_t* index) {
  float best = -std::numeric_limits<float>::infinity();
  std::int64_t best_index = 0;
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = columns.begin; j < columns.end; ++j) {
      const float here = x[(i * p.width + j) * p.channels];
      if (!(here > best || here != here)) continue;
      best = here;
      best_index = i * p.window + j;
    }
  }
  *y = best;
  if (index != nullptr) *index = static_cast<std::uint8_t>(best_index);
}

// Pools all channels of one window.
template <bool with_indices>
void pool_pixel(const Pool& p, const float* image, std::int64_t row, std::int64_t column, float* y,
                std::uint8_t* indices) {
  const std::int64_t top = row * p.stride - p.padding, left = column * p.stride - p.padding;
  const Span rows(top, p.window, p.height), columns(left, p.window, p.width);
  const float* const x = image + (top * p.width + left) * p.channels;
  std::int64_t c = 0;
  const auto index = [&] { return with_indices ? indices + c : nullptr; };
  for (; c + chunk <= p.channels; c += chunk) {
    pool_vectors<chunk / lanes, with_indices>(p, x + c, rows, columns, y + c, index());
  }
  for (; c + lanes <= p.channels; c += lanes) {
    pool_vectors<1, with_indices>(p, x + c, rows, columns, y + c, index());
  }
  for (; c < p.channels; ++c) pool_channel(p, x + c, rows, columns, y + c, index());
}

// Adds dy where the maximum has this index. The compiler vectorises the loop.
SIMD void add_at_index(const float* dy, const std::uint8_t* indices, std::int64_t index,
                       std::int64_t count, float* dx) {
  for (std::int64_t c = 0; c < count; ++c) dx[c] += indices[c] == index ? dy[c] : 0.0f;
}

// The windows along one axis that contain a pixel.
struct Windows {
  std::int64_t begin, end;

  Windows(std::int64_t pixel, const Pool& p, std::int64_t count)
      : begin(std::max<std::int64_t>(
            0, ceil_div(std::max<std::int64_t>(0, pixel + p.padding - p.window + 1), p.stride))),
        end(std::min(count, (pixel + p.padding) / p.stride + 1)) {}
};

// Computes the gradient of one pixel of the images, all channels.
void gradient_pixel(const Pool& p, const float* dy, const std::uint8_t* indices, std::int64_t row,
                    std::int64_t column, float* dx) {
  std::memset(dx, 0, p.channels * sizeof(float));
  const Windows rows(row, p, p.out_height), columns(column, p, p.out_width);
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    for (std::int64_t j = columns.begin; j < columns.end; ++j) {
      const std::int64_t index =
          (row + p.padding - i * p.stride) * p.window + column + p.padding - j * p.stride;
      const std::int64_t at = (i * p.out_width + j) * p.channels;
      add_at_index(dy + at, indices + at, index, p.channels, dx);
    }
  }
}

// Calls visit(image, row) for all rows of all images, in parallel over bands of rows.
template <typename Visit>
void for_rows(std::int64_t images, std::int64_t rows, const Executor& executor, Visit visit) {
  const std::int64_t bands = ceil_div(rows, rows_per_band);
  executor.run(images * bands, [&](std::int64_t task) {
    const std::int64_t band = task % bands;
    for (std::int64_t row = rows * band / bands; row < rows * (band + 1) / bands; ++row) {
      visit(task / bands, row);
    }
  });
}

void max_pool(const Pool& p, const float* x, float* y, std::uint8_t* indices,
              const Executor& executor) {
  for_rows(p.images, p.out_height, executor, [&](std::int64_t image, std::int64_t row) {
    for (std::int64_t column = 0; column < p.out_width; ++column) {
      const std::int64_t at = ((image * p.out_height + row) * p.out_width + column) * p.channels;
      const float* const from = x + image * p.height * p.width * p.channels;
      if (indices != nullptr) {
        pool_pixel<true>(p, from, row, column, y + at, indices + at);
      } else {
        pool_pixel<false>(p, from, row, column, y + at, nullptr);
      }
    }
  });
}

void gradient(const Pool& p, const float* dy, const std::uint8_t* indices, float* dx,
              const Executor& executor) {
  for_rows(p.images, p.height, executor, [&](std::int64_t image, std::int64_t row) {
    const std::int64_t result = image * p.out_height * p.out_width * p.channels;
    for (std::int64_t column = 0; column < p.width; ++column) {
      const std::int64_t at = ((image * p.height + row) * p.width + column) * p.channels;
      gradient_pixel(p, dy + result, indices + result, row, column, dx + at);
    }
  });
}

}  // namespace

extern const Pooling pooling;
const Pooling pooling{max_pool, gradient};

}  // namespace flax_resnet::ISA
