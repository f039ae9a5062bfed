// The shape and dtype of one 2-D convolution.
//
// Images [N, H, W, C] are convolved with a kernel [h, w, C / groups, F] to a result [N, H', W', F].
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace flax_resnet {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

enum class Dtype { f32, bf16 };

inline std::int64_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

// Reports shapes or dtypes that the caller got wrong. The message is one sentence.
struct InvalidArgument : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct Problem {
  std::int64_t images, height, width, channels;  // The input's sizes.
  std::int64_t out_height, out_width, features;
  std::int64_t kernel_height, kernel_width;
  std::int64_t stride, groups;
  std::int64_t top, left;  // Rows of zeros above the input, and columns of zeros left of it.
  Dtype dtype;

  // Rows of zeros below the input, and columns of zeros right of it. They are negative if the last
  // window does not reach the end of the input.
  std::int64_t bottom() const { return (out_height - 1) * stride + kernel_height - height - top; }
  std::int64_t right() const { return (out_width - 1) * stride + kernel_width - width - left; }

  bool is_pointwise() const { return kernel_height == 1 && kernel_width == 1; }
  std::int64_t input_image_size() const { return height * width * channels; }
  std::int64_t output_image_size() const { return out_height * out_width * features; }
  std::int64_t kernel_size() const {
    return kernel_height * kernel_width * (channels / groups) * features;
  }
  // Writes all fields as text, for cache keys and error messages.
  std::string to_string() const;
};

// Checks the shapes and makes the problem that they describe. Throws InvalidArgument.
Problem make_problem(const std::int64_t* x, std::size_t x_rank, const std::int64_t* kernel,
                     std::size_t kernel_rank, const std::int64_t* y, std::size_t y_rank,
                     std::int64_t stride, std::int64_t padding, std::int64_t groups, Dtype dtype);

}  // namespace flax_resnet
