// XLA's typed custom calls for the functions of normalization.h.
#include <cstdint>

#include "custom_call.h"
#include "instruction_set.h"

namespace {

using namespace flax_resnet;

// Reads images [..., C] as pixels by channels.
Pixels pixels_of(const Array& x) {
  const Shape shape(x);
  if (x.element_type() != ffi::DataType::F32 || shape.dims.empty() || x.element_count() == 0) {
    throw InvalidArgument("batch normalisation takes float32 images [..., C] that are not empty");
  }
  const auto size = static_cast<std::int64_t>(x.element_count());
  return {size / shape.dims.back(), shape.dims.back()};
}

const float* values_of(const Array& array, std::int64_t count) {
  if (array.element_type() != ffi::DataType::F32 ||
      static_cast<std::int64_t>(array.element_count()) != count) {
    throw InvalidArgument("the arrays of a batch normalisation do not fit its images");
  }
  return static_cast<const float*>(array.untyped_data());
}

Affine affine_of(const Array& mean, const Array& factor, const Array& bias, std::int64_t channels) {
  return {values_of(mean, channels), values_of(factor, channels), values_of(bias, channels)};
}

float* values_of(Result& array, std::int64_t count) {
  return const_cast<float*>(values_of(*array, count));
}

const Normalization& normalization() { return required_instruction_set().normalization; }

ffi::Error Moments(ffi::ThreadPool pool, Array x, Result mean, Result mean_square) {
  return catch_errors([&] {
    const auto size = pixels_of(x);
    normalization().moments(size, static_cast<const float*>(x.untyped_data()),
                            values_of(mean, size.channels), values_of(mean_square, size.channels),
                            executor_of(pool));
  });
}

// The optional operand after the affine map is the residual.
ffi::Error Normalize(ffi::ThreadPool pool, Array x, Array mean, Array factor, Array bias,
                     ffi::RemainingArgs optional_operands, Result y, bool relu) {
  return catch_errors([&] {
    const auto size = pixels_of(x);
    const auto c = size.channels, total_size = size.count * c;
    const float* residual = nullptr;
    if (optional_operands.size() > 0) {
      residual = values_of(*optional_operands.get<Array>(0), total_size);
    }
    normalization().normalize(size, values_of(x, total_size), affine_of(mean, factor, bias, c),
                              residual, relu, values_of(y, total_size), executor_of(pool));
  });
}

// The optional operand after the affine map is the result y, from which ReLU's mask is read. With
// it the optional result g is returned too.
ffi::Error GradientSums(ffi::ThreadPool pool, Array dy, Array x, Array mean, Array factor,
                        Array bias, ffi::RemainingArgs optional_operands, Result total,
                        Result centred_total, ffi::RemainingRets optional_results, bool relu) {
  return catch_errors([&] {
    const auto size = pixels_of(x);
    const auto c = size.channels, total_size = size.count * c;
    const float* y = nullptr;
    float* g = nullptr;
    if (optional_operands.size() > 0) y = values_of(*optional_operands.get<Array>(0), total_size);
    if (optional_results.size() > 0) {
      Result array = *optional_results.get<ffi::AnyBuffer>(0);
      g = values_of(array, total_size);
    }
    normalization().gradient_sums(size, values_of(x, total_size), affine_of(mean, factor, bias, c),
                                  {values_of(dy, total_size), y, relu}, values_of(total, c),
                                  values_of(centred_total, c), g, executor_of(pool));
  });
}

ffi::Error NormalizationGradient(ffi::ThreadPool pool, Array dy, Array x, Array mean, Array factor,
                                 Array bias, Array mean_gradient, Array projection, Result dx,
                                 bool relu) {
  return catch_errors([&] {
    const auto size = pixels_of(x);
    const auto c = size.channels, total_size = size.count * c;
    normalization().gradient(size, values_of(x, total_size), affine_of(mean, factor, bias, c),
                             {values_of(dy, total_size), nullptr, relu},
                             values_of(mean_gradient, c), values_of(projection, c),
                             values_of(dx, total_size), executor_of(pool));
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    flax_resnet_moments, Moments,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Array>().Ret<Array>().Ret<Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_resnet_normalize, Normalize,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .RemainingArgs()
                                  .Ret<Array>()
                                  .Attr<bool>("relu"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_resnet_gradient_sums, GradientSums,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .RemainingArgs()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .RemainingRets()
                                  .Attr<bool>("relu"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_resnet_normalization_gradient, NormalizationGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<bool>("relu"));
