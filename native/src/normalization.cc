#include "normalization.h"

#include <algorithm>
#include <vector>

namespace flax_resnet {
namespace {

#define AVX2 __attribute__((target("avx2,fma")))

// Pixels of few channels are taken several at a time, as one of so many channels at least.
constexpr std::int64_t least_width = 64;
// Rows whose sums are taken in float before they are added in double.
constexpr std::int64_t rows_of_float_sums = 128;

// Rows of `width` numbers, `pixels_a_row` pixels each; the last `rest` pixels are a row of their own.
struct Rows {
  std::int64_t count, width, pixels_a_row, rest;
  explicit Rows(Pixels size) {
    pixels_a_row = std::max<std::int64_t>(1, least_width / size.channels);
    width = pixels_a_row * size.channels;
    count = size.count / pixels_a_row;
    rest = size.count % pixels_a_row;
  }
};

// Numbers of each channel, repeated for each pixel of a row.
class Repeated {
 public:
  Repeated(const float* numbers, Pixels size, const Rows& rows) : numbers_(numbers) {
    if (rows.pixels_a_row == 1 || numbers == nullptr) return;
    for (std::int64_t i = 0; i < rows.pixels_a_row; ++i) {
      copies_.insert(copies_.end(), numbers, numbers + size.channels);
    }
    numbers_ = copies_.data();
  }
  operator const float*() const { return numbers_; }

 private:
  const float* numbers_;
  std::vector<float> copies_;
};

struct RepeatedAffine {
  Repeated mean, factor, bias;
  RepeatedAffine(const Affine& affine, Pixels size, const Rows& rows)
      : mean(affine.mean, size, rows),
        factor(affine.factor, size, rows),
        bias(affine.bias, size, rows) {}
};

// Calls function(first row, rows, width) for parts of the rows, side by side, and for the rest.
template <typename Function>
void for_parts(const Rows& rows, Pixels size, std::int64_t parts, const Executor& executor,
               Function function) {
  executor.run(parts, [&](std::int64_t i) {
    const std::int64_t begin = rows.count * i / parts, end = rows.count * (i + 1) / parts;
    if (end > begin) function(i, begin * rows.width, end - begin, rows.width);
    if (i == parts - 1 && rows.rest > 0) {
      function(i, rows.count * rows.width, 1, rows.rest * size.channels);
    }
  });
}

// More parts than threads: one thread may be slower than another.
std::int64_t parts_of(const Rows& rows, const Executor& executor) {
  const std::int64_t numbers = rows.count * rows.width;
  return std::clamp<std::int64_t>(numbers / 16384, 1, 4 * executor.threads());
}

// Two sums for each number of a row, by part.
class Sums {
 public:
  Sums(const Rows& rows, std::int64_t parts)
      : width_(rows.width), all_(static_cast<std::size_t>(2 * rows.width * parts)) {}
  double* first(std::int64_t part) { return all_.data() + 2 * width_ * part; }
  double* second(std::int64_t part) { return first(part) + width_; }

  // Of each channel, times `scale`.
  void total(Pixels size, double scale, float* first, float* second) const {
    std::vector<double> sums(2 * size.channels);
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const bool is_second = i / width_ % 2 == 1;
      sums[is_second * size.channels + i % width_ % size.channels] += all_[i];
    }
    for (std::int64_t c = 0; c < size.channels; ++c) {
      first[c] = static_cast<float>(sums[c] * scale);
      second[c] = static_cast<float>(sums[size.channels + c] * scale);
    }
  }

 private:
  std::int64_t width_;
  std::vector<double> all_;
};

AVX2 void add_sums(const float* __restrict from, double* __restrict to, std::int64_t width) {
  for (std::int64_t j = 0; j < width; ++j) to[j] += from[j];
}

AVX2 void sum_squares(const float* x, std::int64_t rows, std::int64_t width,
                      float* __restrict sums, float* __restrict squares) {
  std::fill(sums, sums + width, 0.0f);
  std::fill(squares, squares + width, 0.0f);
  std::int64_t row = 0;
  for (; row + 4 <= rows; row += 4, x += 4 * width) {
    const float *const a = x, *const b = a + width, *const c = b + width, *const d = c + width;
    for (std::int64_t j = 0; j < width; ++j) {
      sums[j] += (a[j] + b[j]) + (c[j] + d[j]);
      squares[j] += (a[j] * a[j] + b[j] * b[j]) + (c[j] * c[j] + d[j] * d[j]);
    }
  }
  for (; row < rows; ++row, x += width) {
    for (std::int64_t j = 0; j < width; ++j) {
      sums[j] += x[j];
      squares[j] += x[j] * x[j];
    }
  }
}

template <bool has_residual, bool relu>
AVX2 void normalize_rows(const float* __restrict x, const float* __restrict mean,
                         const float* __restrict factor, const float* __restrict bias,
                         const float* __restrict residual, float* __restrict y, std::int64_t rows,
                         std::int64_t width) {
  for (std::int64_t row = 0; row < rows; ++row, x += width, y += width) {
    for (std::int64_t j = 0; j < width; ++j) {
      float value = (x[j] - mean[j]) * factor[j] + bias[j];
      if (has_residual) value += residual[j];
      if (relu) value = 0.0f > value ? 0.0f : value;  // so put, NaN stays NaN
      y[j] = value;
    }
    if (has_residual) residual += width;
  }
}

// How g is found: see Gradient.
enum class Mask { none, by_result, by_input };

template <Mask mask>
AVX2 inline __attribute__((always_inline)) float before_relu(float dy, float result, float centred,
                                                             float factor, float bias) {
  if (mask == Mask::by_result) return result > 0.0f ? dy : 0.0f;
  if (mask == Mask::by_input) return centred * factor + bias > 0.0f ? dy : 0.0f;
  return dy;
}

template <Mask mask, bool writes>
AVX2 void sum_gradients(const float* __restrict x, const float* __restrict mean,
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
      if (writes) g[at + j] = value;
    }
  }
}

template <Mask mask>
AVX2 void gradient_rows(const float* __restrict x, const float* __restrict mean,
                        const float* __restrict factor, const float* __restrict bias,
                        const float* __restrict dy, const float* __restrict y,
                        const float* __restrict shared, const float* __restrict slope,
                        float* __restrict dx, std::int64_t rows, std::int64_t width) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t at = row * width;
    for (std::int64_t j = 0; j < width; ++j) {
      const float from_mean = x[at + j] - mean[j];
      const float value = before_relu<mask>(dy[at + j], mask == Mask::by_result ? y[at + j] : 0.0f,
                                            from_mean, factor[j], bias[j]);
      dx[at + j] = factor[j] * (value - shared[j] - from_mean * slope[j]);
    }
  }
}

const float* at(const float* data, std::int64_t offset) {
  return data == nullptr ? nullptr : data + offset;
}

Mask mask_of(const Gradient& gradient) {
  if (!gradient.relu) return Mask::none;
  return gradient.y == nullptr ? Mask::by_input : Mask::by_result;
}

// Calls sum(offset, rows, width, sums of float, others of float) for pieces of at most
// rows_of_float_sums rows, and adds what it sums.
template <typename Sum>
void summed(Pixels size, double scale, float* first, float* second, const Executor& executor,
            Sum sum) {
  const Rows rows(size);
  const std::int64_t parts = parts_of(rows, executor);
  Sums sums(rows, parts);
  for_parts(rows, size, parts, executor,
            [&](std::int64_t part, std::int64_t offset, std::int64_t count, std::int64_t width) {
              std::vector<float> here(2 * width);
              for (std::int64_t row = 0; row < count; row += rows_of_float_sums) {
                const std::int64_t piece = std::min(rows_of_float_sums, count - row);
                sum(offset + row * width, piece, width, here.data(), here.data() + width);
                add_sums(here.data(), sums.first(part), width);
                add_sums(here.data() + width, sums.second(part), width);
              }
            });
  sums.total(size, scale, first, second);
}

}  // namespace

void moments(Pixels size, const float* x, float* mean, float* mean_square,
             const Executor& executor) {
  summed(size, 1.0 / static_cast<double>(size.count), mean, mean_square, executor,
         [&](std::int64_t offset, std::int64_t rows, std::int64_t width, float* sums,
             float* squares) { sum_squares(x + offset, rows, width, sums, squares); });
}

void normalize(Pixels size, const float* x, const Affine& affine, const float* residual, bool relu,
               float* y, const Executor& executor) {
  const Rows rows(size);
  const RepeatedAffine row(affine, size, rows);
  const auto run = residual == nullptr
                       ? (relu ? normalize_rows<false, true> : normalize_rows<false, false>)
                       : (relu ? normalize_rows<true, true> : normalize_rows<true, false>);
  for_parts(rows, size, parts_of(rows, executor), executor,
            [&](std::int64_t, std::int64_t offset, std::int64_t count, std::int64_t width) {
              run(x + offset, row.mean, row.factor, row.bias, at(residual, offset), y + offset, count, width);
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
  summed(size, 1.0, total, centred_total, executor,
         [&](std::int64_t offset, std::int64_t count, std::int64_t width, float* totals,
             float* centred) {
           run(x + offset, row.mean, row.factor, row.bias, gradient.dy + offset, at(gradient.y, offset), count,
               width, totals, centred, g == nullptr ? nullptr : g + offset);
         });
}

void normalization_gradient(Pixels size, const float* x, const Affine& affine,
                            const Gradient& gradient, const float* shared, const float* slope,
                            float* dx, const Executor& executor) {
  const Rows rows(size);
  const RepeatedAffine row(affine, size, rows);
  const Repeated shared_row(shared, size, rows), slope_row(slope, size, rows);
  constexpr decltype(&gradient_rows<Mask::none>) table[3] = {
      gradient_rows<Mask::none>, gradient_rows<Mask::by_result>, gradient_rows<Mask::by_input>};
  const auto run = table[static_cast<int>(mask_of(gradient))];
  for_parts(rows, size, parts_of(rows, executor), executor,
            [&](std::int64_t, std::int64_t offset, std::int64_t count, std::int64_t width) {
              run(x + offset, row.mean, row.factor, row.bias, gradient.dy + offset, at(gradient.y, offset),
                  shared_row, slope_row, dx + offset, count, width);
            });
}

}  // namespace flax_resnet
