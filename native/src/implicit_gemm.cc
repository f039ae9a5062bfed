#include "implicit_gemm.h"

#include <cstring>

namespace flax_resnet {

ImplicitGemm forward_gemm(const Problem& p, const float* x, float* y) {
  ImplicitGemm gemm{x,
                    p.height,
                    p.width,
                    p.channels,
                    p.stride,
                    y,
                    p.images,
                    p.out_height,
                    p.out_width,
                    p.features,
                    p.output_image_size(),
                    p.out_width * p.features,
                    p.features,
                    {},
                    false,
                    p.groups};
  for (std::int64_t i = 0; i < p.kernel_height; ++i) {
    for (std::int64_t j = 0; j < p.kernel_width; ++j) {
      gemm.taps.push_back({i - p.top, j - p.left, i * p.kernel_width + j});
    }
  }
  return gemm;
}

ImplicitGemm input_gradient_gemm(const Problem& p, const float* dy, float* dx, std::int64_t row,
                                 std::int64_t column) {
  const std::int64_t s = p.stride;
  ImplicitGemm gemm{dy,
                    p.out_height,
                    p.out_width,
                    p.features,
                    1,
                    dx + (row * p.width + column) * p.channels,
                    p.images,
                    ceil_div(p.height - row, s),
                    ceil_div(p.width - column, s),
                    p.channels,
                    p.input_image_size(),
                    s * p.width * p.channels,
                    s * p.channels,
                    {},
                    true,
                    p.groups};
  for (std::int64_t i = 0; i < p.kernel_height; ++i) {
    for (std::int64_t j = 0; j < p.kernel_width; ++j) {
      const std::int64_t y = row + p.top - i, x = column + p.left - j;
      if (y % s == 0 && x % s == 0) gemm.taps.push_back({y / s, x / s, i * p.kernel_width + j});
    }
  }
  return gemm;
}

void zero_result(const ImplicitGemm& p, const Executor& executor) {
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
