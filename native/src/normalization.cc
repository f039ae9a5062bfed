#include "normalization.h"

#include <algorithm>
#include <vector>

#include "vector.h"

namespace flax_resnet::ISA {
namespace {

// Several pixels with few channels are treated as one row, which has at least this many values.
constexpr std::int64_t min_width = 64;
// This many rows are summed in float before their sums are added in double.
constexpr std::int64_t rows_per_float_sum = 128;

// The array as rows of `width` values, `pixels_per_row` pixels each. The last `remainder` pixels
// are a shorter row.
struct Rows {
  std::int64_t count, width, pixels_per_row, remainder;
  explicit Rows(Pixels size) {
    pixels_per_row = std::max<std::int64_t>(1, min_width / size.channels);
    width = pixels_per_row * size.channels;
    count = size.count / pixels_per_row;
    remainder = size.count % pixels_per_row;
  }
};

// One value per channel, repeated for each pixel of a row.
class Repeated {
 public:
  Repeated(const float* values, Pixels size, const Rows& rows) : values_(values) {
    if (rows.pixels_per_row == 1 || values == nullptr) return;
    for (std::int64_t i = 0; i < rows.pixels_per_row; ++i) {
      copies_.insert(copies_.end(), values, values + size.channels);
    }
    values_ = copies_.data();
  }
  operator const float*() const { return values_; }

 private:
  const float* values_;
  std::vector<float> copies_;
};

struct RepeatedAffine {
  Repeated mean, factor, bias;
  RepeatedAffine(const Affine& affine, Pixels size, const Rows& rows)
      : mean(affine.mean, size, rows),
        factor(affine.factor, size, rows),
        bias(affine.bias, size, rows) {}
};

// Calls function(task, offset, rows, width) for ranges of the rows in parallel, and for the shorter
// last row.
template <typename Function>
void for_tasks(const Rows& rows, Pixels size, std::int64_t tasks, const Executor& executor,
               Function function) {
  executor.run(tasks, [&](std::int64_t i) {
    const std::int64_t begin = rows.count * i / tasks, end = rows.count * (i + 1) / tasks;
    if (end > begin) function(i, begin * rows.width, end - begin, rows.width);
    if (i == tasks - 1 && rows.remainder > 0) {
      function(i, rows.count * rows.width, 1, rows.remainder * size.channels);
    }
  });
}

// Returns the number of tasks: more than threads, because one thread may be slower than another.
std::int64_t task_count(const Rows& rows, const Executor& executor) {
  const std::int64_t values = rows.count * rows.width;
  return std::clamp<std::int64_t>(values / 16384, 1, 4 * executor.threads());
}

// Two sums for each value of a row, separately for each task.
class Sums {
 public:
  Sums(const Rows& rows, std::int64_t tasks)
      : width_(rows.width), sums_(static_cast<std::size_t>(2 * rows.width * tasks)) {}
  double* first(std::int64_t task) { return sums_.data() + 2 * width_ * task; }
  double* second(std::int64_t task) { return first(task) + width_; }

  // Adds up the sums of each channel in the order of the tasks and multiplies them by `scale`.
  void total(Pixels size, double scale, float* first, float* second) const {
    std::vector<double> sums(2 * size.channels);
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      const bool is_second = i / width_ % 2 == 1;
      sums[is_second * size.channels + i % width_ % size.channels] += sums_[i];
    }
    for (std::int64_t c = 0; c < size.channels; ++c) {
      first[c] = static_cast<float>(sums[c] * scale);
      second[c] = static_cast<float>(sums[size.channels + c] * scale);
    }
  }

 private:
  std::int64_t width_;
  std::vector<double> sums_;
};

SIMD void add_sums(const float* __restrict from, double* __restrict to, std::int64_t width) {
  for (std::int64_t j = 0; j < width; ++j) to[j] += from[j];
}

SIMD void sum_squares(const float* x, std::int64_t rows, std::int64_t width, float* __restrict sums,
                      float* __restrict square_sums) {
  std::fill(sums, sums + width, 0.0f);
  std::fill(square_sums, square_sums + width, 0.0f);
  std::int64_t row = 0;
  for (; row + 4 <= rows; row += 4, x += 4 * width) {
    const float *const a = x, *const b = a + width, *const c = b + width, *const d = c + width;
    for (std::int64_t j = 0; j < width; ++j) {
      sums[j] += (a[j] + b[j]) + (c[j] + d[j]);
      square_sums[j] += (a[j] * a[j] + b[j] * b[j]) + (c[j] * c[j] + d[j] * d[j]);
    }
  }
  for (; row < rows; ++row, x += width) {
    for (std::int64_t j = 0; j < width; ++j) {
      sums[j] += x[j];
      square_sums[j] += x[j] * x[j];
    }
  }
}

template <bool has_residual, bool relu>
SIMD void normalize_rows(const float* __restrict x, const float* __restrict mean,
                         const float* __restrict factor, const float* __restrict bias,
                         const float* __restrict residual, float* __restrict y, std::int64_t rows,
                         std::int64_t width) {
  for (std::int64_t row = 0; row < rows; ++row, x += width, y += width) {
    for (std::int64_t j = 0; j < width; ++j) {
      float value = (x[j] - mean[j]) * factor[j] + bias[j];
      if (has_residual) value += residual[j];
      if (relu) value = 0.0f > value ? 0.0f : value;  // Written like this, NaN stays NaN.
      y[j] = value;
    }
    if (has_residual) residual += width;
  }
}

// Where ReLU's mask comes from: see Gradient.
enum class Mask { none, by_result, by_input };

template <Mask mask>
SIMD_INLINE float before_relu(float dy, float result, float centred, float factor, float bias) {
  if (mask == Mask::by_result) return result > 0.0f ? dy : 0.0f;
  if (mask == Mask::by_input) return centred * factor + bias > 0.0f ? dy : 0.0f;
  return dy;
}

template <Mask mask, bool writes_g>
SIMD void sum_gradients(const float* __restrict x, const float* __restrict mean,
                        const float* __restrict factor, const float* __restrict bias,
                        const float* __restrict dy, const float* __restrict y, std::int64_t rows,
                        std::int64_t width, float* __restrict totals, float* __restrict centred,
                        float* __restrict g) {
  std::fill(totals, totals + width, 0.0f);
  std::fill(centred, centred + width, 0.0f);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t at = row * width;
    for (std::int64_t j = 0; j < width; ++j) {
      const float from_mean = x[at + j] - mean[j];
      const float value = before_relu<mask>(dy[at + j], mask == Mask::by_result ? y[at + j] : 0.0f,
                                            from_mean, factor[j], bias[j]);
      totals[j] += value;
      centred[j] += value * from_mean;
      if (writes_g) g[at + j] = value;
    }
  }
}

template <Mask mask>
SIMD void gradient_rows(const float* __restrict x, const float* __restrict mean,
                        const float* __restrict factor, const float* __restrict bias,
                        const float* __restrict dy, const float* __restrict y,
                        const float* __restrict mean_gradient, const float* __restrict projection,
                        float* __restrict dx, std::int64_t rows, std::int64_t width) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t at = row * width;
    for (std::int64_t j = 0; j < width; ++j) {
      const float from_mean = x[at + j] - mean[j];
      const float value = before_relu<mask>(dy[at + j], mask == Mask::by_result ? y[at + j] : 0.0f,
                                            from_mean, factor[j], bias[j]);
      dx[at + j] = factor[j] * (value - mean_gradient[j] - from_mean * projection[j]);
    }
  }
}

const float* offset_or_null(const float* data, std::int64_t offset) {
  return data == nullptr ? nullptr : data + offset;
}

Mask mask_of(const Gradient& gradient) {
  if (!gradient.relu) return Mask::none;
  return gradient.y == nullptr ? Mask::by_input : Mask::by_result;
}

// Calls sum(offset, rows, width, first float sums, second float sums) for chunks of at most
// rows_per_float_sum rows, and adds up the sums in double.
template <typename Sum>
void reduce_rows(Pixels size, double scale, float* first, float* second, const Executor& executor,
                 Sum sum) {
  const Rows rows(size);
  const std::int64_t tasks = task_count(rows, executor);
  Sums sums(rows, tasks);
  for_tasks(rows, size, tasks, executor,
            [&](std::int64_t task, std::int64_t offset, std::int64_t count, std::int64_t width) {
              std::vector<float> chunk_sums(2 * width);
              for (std::int64_t row = 0; row < count; row += rows_per_float_sum) {
                const std::int64_t chunk_rows = std::min(rows_per_float_sum, count - row);
                sum(offset + row * width, chunk_rows, width, chunk_sums.data(),
                    chunk_sums.data() + width);
                add_sums(chunk_sums.data(), sums.first(task), width);
                add_sums(chunk_sums.data() + width, sums.second(task), width);
              }
            });
  sums.total(size, scale, first, second);
}

void moments(Pixels size, const float* x, float* mean, float* mean_square,
             const Executor& executor) {
  reduce_rows(size, 1.0 / static_cast<double>(size.count), mean, mean_square, executor,
              [&](std::int64_t offset, std::int64_t rows, std::int64_t width, float* sums,
                  float* square_sums) { sum_squares(x + offset, rows, width, sums, square_sums); });
}

void normalize(Pixels size, const float* x, const Affine& affine, const float* residual, bool relu,
               float* y, const Executor& executor) {
  const Rows rows(size);
  const RepeatedAffine row(affine, size, rows);
  const auto run = residual == nullptr
                       ? (relu ? normalize_rows<false, true> : normalize_rows<false, false>)
                       : (relu ? normalize_rows<true, true> : normalize_rows<true, false>);
  for_tasks(rows, size, task_count(rows, executor), executor,
            [&](std::int64_t, std::int64_t offset, std::int64_t count, std::int64_t width) {
              run(x + offset, row.mean, row.factor, row.bias, offset_or_null(residual, offset),
                  y + offset, count, width);
            });
}

void gradient_sums(Pixels size, const float* x, const Affine& affine, const Gradient& gradient,
                   float* total, float* centred_total, float* g, const Executor& executor) {
  const Rows rows(size);
  const RepeatedAffine row(affine, size, rows);
  constexpr decltype(&sum_gradients<Mask::none, false>) table[3][2] = {
      {sum_gradients<Mask::none, false>, sum_gradients<Mask::none, true>},
      {sum_gradients<Mask::by_result, false>, sum_gradients<Mask::by_result, true>},
      {sum_gradients<Mask::by_input, false>, sum_gradients<Mask::by_input, true>}};
  const auto run = table[static_cast<int>(mask_of(gradient))][g != nullptr];
  reduce_rows(size, 1.0, total, centred_total, executor,
              [&](std::int64_t offset, std::int64_t count, std::int64_t width, float* totals,
                  float* centred) {
                run(x + offset, row.mean, row.factor, row.bias, gradient.dy + offset,
                    offset_or_null(gradient.y, offset), count, width, totals, centred,
                    g == nullptr ? nullptr : g + offset);
              });
}

void gradient(Pixels size, const float* x, const Affine& affine, const Gradient& gradient,
              const float* mean_gradient, const float* projection, float* dx,
              const Executor& executor) {
  const Rows rows(size);
  const RepeatedAffine row(affine, size, rows);
  const Repeated mean_gradient_row(mean_gradient, size, rows),
      projection_row(projection, size, rows);
  constexpr decltype(&gradient_rows<Mask::none>) table[3] = {
      gradient_rows<Mask::none>, gradient_rows<Mask::by_result>, gradient_rows<Mask::by_input>};
  const auto run = table[static_cast<int>(mask_of(gradient))];
  for_tasks(rows, size, task_count(rows, executor), executor,
            [&](std::int64_t, std::int64_t offset, std::int64_t count, std::int64_t width) {
              run(x + offset, row.mean, row.factor, row.bias, gradient.dy + offset,
                  offset_or_null(gradient.y, offset), mean_gradient_row, projection_row,
                  dx + offset, count, width);
            });
}

}  // namespace

extern const Normalization normalization;
const Normalization normalization{moments, normalize, gradient_sums, gradient};

}  // namespace flax_resnet::ISA
