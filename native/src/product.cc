#include "product.h"

#include <cstring>

namespace flax_resnet {

Product forward_product(const Problem& p, const float* x, float* y) {
  Product product{x, p.height, p.width, p.channels, p.stride, y, p.images, p.out_height,
                  p.out_width, p.features, p.output_image(), p.out_width * p.features, p.features,
                  {}, false, p.groups};
  for (std::int64_t i = 0; i < p.kernel_height; ++i) {
    for (std::int64_t j = 0; j < p.kernel_width; ++j) {
      product.taps.push_back({i - p.top, j - p.left, i * p.kernel_width + j});
    }
  }
  return product;
}

Product gradient_product(const Problem& p, const float* dy, float* dx, std::int64_t row,
                         std::int64_t column) {
  const std::int64_t s = p.stride;
  Product product{dy, p.out_height, p.out_width, p.features, 1,
                  dx + (row * p.width + column) * p.channels, p.images,
                  ceil_div(p.height - row, s), ceil_div(p.width - column, s), p.channels,
                  p.input_image(), s * p.width * p.channels, s * p.channels, {}, true,
                  p.groups};
  for (std::int64_t i = 0; i < p.kernel_height; ++i) {
    for (std::int64_t j = 0; j < p.kernel_width; ++j) {
      const std::int64_t y = row + p.top - i, x = column + p.left - j;
      if (y % s == 0 && x % s == 0) product.taps.push_back({y / s, x / s, i * p.kernel_width + j});
    }
  }
  return product;
}

void clear(const Product& p, const Executor& executor) {
  executor.run(p.images, [&](std::int64_t image) {
    for (std::int64_t i = 0; i < p.rows; ++i) {
      float* to = p.result + image * p.image_step + i * p.row_step;
      for (std::int64_t j = 0; j < p.columns; ++j, to += p.column_step) {
        std::memset(to, 0, p.features * sizeof(float));
      }
    }
  });
}

}  // namespace flax_resnet
