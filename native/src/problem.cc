#include "problem.h"

namespace flax_resnet {
namespace {

std::string shape_text(const std::int64_t* dims, std::size_t rank) {
  std::string text = "[";
  for (std::size_t i = 0; i < rank; ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(dims[i]);
  }
  return text + "]";
}

}  // namespace

std::string Problem::to_string() const {
  std::string text = dtype == Dtype::f32 ? "f32" : "bf16";
  for (std::int64_t value : {images, height, width, channels, out_height, out_width, features,
                             kernel_height, kernel_width, stride, groups, top, left}) {
    text += " " + std::to_string(value);
  }
  return text;
}

Problem make_problem(const std::int64_t* x, std::size_t x_rank, const std::int64_t* kernel,
                     std::size_t kernel_rank, const std::int64_t* y, std::size_t y_rank,
                     std::int64_t stride, std::int64_t padding, std::int64_t groups, Dtype dtype) {
  const std::string shapes = "images " + shape_text(x, x_rank) + ", a kernel " +
                             shape_text(kernel, kernel_rank) + " and a result " +
                             shape_text(y, y_rank);
  if (x_rank != 4 || kernel_rank != 4 || y_rank != 4) {
    throw InvalidArgument(
        "a convolution takes images [N, H, W, C], a kernel [h, w, C / groups, F] and "
        "a result [N, H', W', F], not " +
        shapes);
  }
  if (stride < 1 || padding < 0 || groups < 1) {
    throw InvalidArgument("stride and groups must be at least 1 and padding at least 0, not " +
                          std::to_string(stride) + ", " + std::to_string(groups) + " and " +
                          std::to_string(padding));
  }
  Problem problem{x[0],      x[1],      x[2],   x[3],   y[1],    y[2],    y[3],
                  kernel[0], kernel[1], stride, groups, padding, padding, dtype};
  for (const std::int64_t* dims : {x, kernel, y}) {
    for (int i = 0; i < 4; ++i) {
      if (dims[i] < 1) throw InvalidArgument("an empty array: " + shapes);
    }
  }
  if (x[3] != kernel[2] * groups || kernel[3] % groups != 0) {
    throw InvalidArgument(
        std::to_string(groups) + " groups do not fit " + shapes +
        ": C must be the kernel's third size times the groups, F a multiple of the "
        "groups");
  }
  const std::int64_t last_row = x[1] + 2 * padding - kernel[0],
                     last_column = x[2] + 2 * padding - kernel[1];
  if (y[0] != x[0] || y[3] != kernel[3] || last_row < 0 || last_column < 0 ||
      y[1] != last_row / stride + 1 || y[2] != last_column / stride + 1) {
    throw InvalidArgument("stride " + std::to_string(stride) + " and padding " +
                          std::to_string(padding) + " do not fit " + shapes);
  }
  return problem;
}

}  // namespace flax_resnet
