// The functions of pooling.h as XLA's typed custom calls.
#include "pooling.h"

#include <cstdint>

#include "custom_call.h"

namespace {

using namespace flax_resnet;

constexpr std::int64_t largest_window = 15;  // a place fits a byte

Pool pool_of(const Array& x, const Array& y, std::int64_t window, std::int64_t stride,
             std::int64_t padding) {
  const Shape from(x), to(y);
  if (from.dims.size() != 4 || to.dims.size() != 4 || window < 1 || window > largest_window ||
      stride < 1 || padding < 0 || 2 * padding > window) {
    throw BadArgument("max-pool takes images [N, H, W, C], a window of 1 to 15 pixels, and a padding "
                      "of at most half of it");
  }
  const Pool pool{from.dims[0], from.dims[1], from.dims[2], from.dims[3],
                  to.dims[1],   to.dims[2],   window,       stride, padding};
  const auto fits = [&](std::int64_t size, std::int64_t count) {
    return size + 2 * padding >= window && count == (size + 2 * padding - window) / stride + 1;
  };
  if (x.element_type() != ffi::DataType::F32 || y.element_type() != ffi::DataType::F32 ||
      to.dims[0] != pool.images || to.dims[3] != pool.channels ||
      !fits(pool.height, pool.out_height) || !fits(pool.width, pool.out_width)) {
    throw BadArgument("the arrays of a max-pool must be float32 and fit each other");
  }
  return pool;
}

std::uint8_t* places_of(const Array& places, const Array& y) {
  if (places.element_type() != ffi::DataType::U8 || places.element_count() != y.element_count()) {
    throw BadArgument("the places of a max-pool must be uint8 and as many as its maxima");
  }
  return static_cast<std::uint8_t*>(places.untyped_data());
}

// The second result, if there is one: the places.
ffi::Error MaxPool(ffi::ThreadPool threads, Array x, Result y, ffi::RemainingRets more,
                   std::int64_t window, std::int64_t stride, std::int64_t padding) {
  return guarded([&] {
    const Pool pool = pool_of(x, *y, window, stride, padding);
    std::uint8_t* places = nullptr;
    if (more.size() > 0) places = places_of(**more.get<ffi::AnyBuffer>(0), *y);
    max_pool(pool, static_cast<const float*>(x.untyped_data()),
             static_cast<float*>(y->untyped_data()), places, executor_of(threads));
  });
}

ffi::Error MaxPoolGradient(ffi::ThreadPool threads, Array dy, Array places, Result dx,
                           std::int64_t window, std::int64_t stride, std::int64_t padding) {
  return guarded([&] {
    const Pool pool = pool_of(*dx, dy, window, stride, padding);
    max_pool_gradient(pool, static_cast<const float*>(dy.untyped_data()), places_of(places, dy),
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
