// The functions of normalization.h as XLA's typed custom calls.
#include "normalization.h"

#include <cstdint>

#include "custom_call.h"

namespace {

using namespace flax_resnet;

// Images [..., C] as pixels by channels; the arrays beside them, [C] or of their shape, must fit.
Pixels pixels_of(const Array& x) {
  const Shape shape(x);
  if (x.element_type() != ffi::DataType::F32 || shape.dims.empty() || x.element_count() == 0) {
    throw BadArgument("batch normalisation takes float32 images [..., C] that are not empty");
  }
  const auto numbers = static_cast<std::int64_t>(x.element_count());
  return {numbers / shape.dims.back(), shape.dims.back()};
}

const float* numbers_of(const Array& array, std::int64_t count) {
  if (array.element_type() != ffi::DataType::F32 ||
      static_cast<std::int64_t>(array.element_count()) != count) {
    throw BadArgument("the arrays of a batch normalisation do not fit its images");
  }
  return static_cast<const float*>(array.untyped_data());
}
Affine affine_of(const Array& mean, const Array& factor, const Array& bias,
                 std::int64_t channels) {
  return {numbers_of(mean, channels), numbers_of(factor, channels), numbers_of(bias, channels)};
}
float* numbers_of(Result& array, std::int64_t count) {
  return const_cast<float*>(numbers_of(*array, count));
}

ffi::Error Moments(ffi::ThreadPool pool, Array x, Result mean, Result mean_square) {
  return guarded([&] {
    const auto size = pixels_of(x);
    moments(size, static_cast<const float*>(x.untyped_data()),
                         numbers_of(mean, size.channels), numbers_of(mean_square, size.channels),
                         executor_of(pool));
  });
}

// After the affine map: the residual, if there is one.
ffi::Error Normalize(ffi::ThreadPool pool, Array x, Array mean, Array factor, Array bias,
                     ffi::RemainingArgs rest, Result y, bool relu) {
  return guarded([&] {
    const auto size = pixels_of(x);
    const auto c = size.channels, all = size.count * c;
    const float* residual = nullptr;
    if (rest.size() > 0) residual = numbers_of(*rest.get<Array>(0), all);
    normalize(size, numbers_of(x, all),
                           affine_of(mean, factor, bias, c),
                           residual, relu, numbers_of(y, all), executor_of(pool));
  });
}

// After the affine map: the result, if ReLU's slope is to be seen from it; then g is returned too.
ffi::Error GradientSums(ffi::ThreadPool pool, Array dy, Array x, Array mean, Array factor,
                        Array bias, ffi::RemainingArgs rest, Result total, Result centred_total,
                        ffi::RemainingRets more, bool relu) {
  return guarded([&] {
    const auto size = pixels_of(x);
    const auto c = size.channels, all = size.count * c;
    const float* y = nullptr;
    float* g = nullptr;
    if (rest.size() > 0) y = numbers_of(*rest.get<Array>(0), all);
    if (more.size() > 0) {
      Result array = *more.get<ffi::AnyBuffer>(0);
      g = numbers_of(array, all);
    }
    gradient_sums(size, numbers_of(x, all),
                               affine_of(mean, factor, bias, c),
                               {numbers_of(dy, all), y, relu}, numbers_of(total, c),
                               numbers_of(centred_total, c), g, executor_of(pool));
  });
}

ffi::Error NormalizationGradient(ffi::ThreadPool pool, Array dy, Array x, Array mean, Array factor,
                                 Array bias, Array shared, Array slope, Result dx, bool relu) {
  return guarded([&] {
    const auto size = pixels_of(x);
    const auto c = size.channels, all = size.count * c;
    normalization_gradient(
        size, numbers_of(x, all), affine_of(mean, factor, bias, c),
        {numbers_of(dy, all), nullptr, relu}, numbers_of(shared, c), numbers_of(slope, c),
        numbers_of(dx, all), executor_of(pool));
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
