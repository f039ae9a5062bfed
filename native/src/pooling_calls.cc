// XLA's typed custom calls for the functions of pooling.h.
#include <cstdint>

#include "custom_call.h"
#include "instruction_set.h"

namespace {

using namespace flax_resnet;

constexpr std::int64_t largest_window = 15;  // An index fits a byte.

Pool pool_of(const Array& x, const Array& y, std::int64_t window, std::int64_t stride,
             std::int64_t padding) {
  const Shape from(x), to(y);
  if (from.dims.size() != 4 || to.dims.size() != 4 || window < 1 || window > largest_window ||
      stride < 1 || padding < 0 || 2 * padding > window) {
    throw InvalidArgument(
        "max-pool takes images [N, H, W, C], a window of 1 to 15 pixels, and a "
        "padding of at most half of it");
  }
  const Pool pool{from.dims[0], from.dims[1], from.dims[2], from.dims[3], to.dims[1],
                  to.dims[2],   window,       stride,       padding};
  const auto fits = [&](std::int64_t size, std::int64_t count) {
    return size + 2 * padding >= window && count == (size + 2 * padding - window) / stride + 1;
  };
  if (x.element_type() != ffi::DataType::F32 || y.element_type() != ffi::DataType::F32 ||
      to.dims[0] != pool.images || to.dims[3] != pool.channels ||
      !fits(pool.height, pool.out_height) || !fits(pool.width, pool.out_width)) {
    throw InvalidArgument("the arrays of a max-pool must be float32 and fit each other");
  }
  return pool;
}

std::uint8_t* indices_of(const Array& indices, const Array& y) {
  if (indices.element_type() != ffi::DataType::U8 || indices.element_count() != y.element_count()) {
    throw InvalidArgument("the indices of a max-pool must be uint8 and as many as its maxima");
  }
  return static_cast<std::uint8_t*>(indices.untyped_data());
}

// The optional second result holds the indices of the maxima.
ffi::Error MaxPool(ffi::ThreadPool threads, Array x, Result y, ffi::RemainingRets optional_results,
                   std::int64_t window, std::int64_t stride, std::int64_t padding) {
  return catch_errors([&] {
    const Pool pool = pool_of(x, *y, window, stride, padding);
    std::uint8_t* indices = nullptr;
    if (optional_results.size() > 0) {
      indices = indices_of(**optional_results.get<ffi::AnyBuffer>(0), *y);
    }
    required_instruction_set().pooling.max_pool(pool, static_cast<const float*>(x.untyped_data()),
                                                static_cast<float*>(y->untyped_data()), indices,
                                                executor_of(threads));
  });
}

ffi::Error MaxPoolGradient(ffi::ThreadPool threads, Array dy, Array indices, Result dx,
                           std::int64_t window, std::int64_t stride, std::int64_t padding) {
  return catch_errors([&] {
    const Pool pool = pool_of(*dx, dy, window, stride, padding);
    required_instruction_set().pooling.gradient(
        pool, static_cast<const float*>(dy.untyped_data()), indices_of(indices, dy),
        static_cast<float*>(dx->untyped_data()), executor_of(threads));
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_resnet_max_pool, MaxPool,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .RemainingRets()
                                  .Attr<std::int64_t>("window")
                                  .Attr<std::int64_t>("stride")
                                  .Attr<std::int64_t>("padding"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_resnet_max_pool_gradient, MaxPoolGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<std::int64_t>("window")
                                  .Attr<std::int64_t>("stride")
                                  .Attr<std::int64_t>("padding"));
