// XLA's typed custom calls for the functions of convolution.h.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "convolution.h"
#include "custom_call.h"
#include "instruction_set.h"
#include "onednn.h"

namespace {

using namespace flax_resnet;

Dtype dtype_of(const Array& array) {
  switch (array.element_type()) {
    case ffi::DataType::F32:
      return Dtype::f32;
    case ffi::DataType::BF16:
      return Dtype::bf16;
    default:
      throw InvalidArgument("a convolution takes float32 or bfloat16 arrays");
  }
}

void check_same_dtype(const Array& a, const Array& b) {
  if (a.element_type() != b.element_type()) {
    throw InvalidArgument("the arrays of a convolution must be of one dtype");
  }
}

Problem problem_of(const Shape& x, const Shape& kernel, const Shape& y, std::int64_t stride,
                   std::int64_t padding, std::int64_t groups, Dtype dtype) {
  return flax_resnet::make_problem(x.dims.data(), x.dims.size(), kernel.dims.data(),
                                   kernel.dims.size(), y.dims.data(), y.dims.size(), stride,
                                   padding, groups, dtype);
}

// Reads the optional operands after the kernel: the bias if has_bias, the residual if has_residual.
Epilogue epilogue_of(ffi::RemainingArgs optional_operands, bool has_bias, bool has_residual,
                     bool relu, const Array& x, const Shape& y) {
  Epilogue epilogue;
  epilogue.relu = relu;
  if (optional_operands.size() != std::size_t{has_bias} + std::size_t{has_residual}) {
    throw InvalidArgument("has_bias and has_residual do not fit the number of operands");
  }
  const auto take = [&](std::size_t index, const std::vector<std::int64_t>& dims,
                        const char* name) {
    const auto array = optional_operands.get<Array>(index);
    if (array.has_error()) throw InvalidArgument(array.error().message());
    check_same_dtype(*array, x);
    if (Shape(*array).dims != dims) {
      throw InvalidArgument(std::string("the ") + name + " has the wrong shape");
    }
    return array->untyped_data();
  };
  if (has_bias) epilogue.bias = take(0, {y.dims.back()}, "bias");
  if (has_residual) epilogue.residual = take(has_bias, y.dims, "residual");
  return epilogue;
}

ffi::Error Forward(ffi::ThreadPool pool, Array x, Array kernel,
                   ffi::RemainingArgs optional_operands, Result y, std::int64_t stride,
                   std::int64_t padding, std::int64_t groups, bool has_bias, bool has_residual,
                   bool relu) {
  return catch_errors([&] {
    check_same_dtype(x, kernel);
    check_same_dtype(x, *y);
    const Shape out(*y);
    const auto problem =
        problem_of(Shape(x), Shape(kernel), out, stride, padding, groups, dtype_of(x));
    flax_resnet::forward(problem, x.untyped_data(), kernel.untyped_data(),
                         epilogue_of(optional_operands, has_bias, has_residual, relu, x, out),
                         y->untyped_data(), executor_of(pool));
  });
}

ffi::Error ForwardPacked(ffi::ThreadPool pool, Array x, Array packed,
                         ffi::RemainingArgs optional_operands, Result y,
                         ffi::Span<const std::int64_t> kernel_shape, std::int64_t stride,
                         std::int64_t padding, std::int64_t groups, bool has_bias,
                         bool has_residual, bool relu) {
  return catch_errors([&] {
    check_same_dtype(x, *y);
    const Shape out(*y);
    const auto problem =
        problem_of(Shape(x), Shape(kernel_shape), out, stride, padding, groups, dtype_of(x));
    flax_resnet::forward_packed(
        problem, x.untyped_data(), packed.untyped_data(),
        static_cast<std::int64_t>(packed.size_bytes()),
        epilogue_of(optional_operands, has_bias, has_residual, relu, x, out), y->untyped_data(),
        executor_of(pool));
  });
}

ffi::Error Pack(ffi::ThreadPool pool, Array kernel, Result packed,
                ffi::Span<const std::int64_t> x_shape, ffi::Span<const std::int64_t> y_shape,
                std::int64_t stride, std::int64_t padding, std::int64_t groups) {
  return catch_errors([&] {
    const auto problem = problem_of(Shape(x_shape), Shape(kernel), Shape(y_shape), stride, padding,
                                    groups, dtype_of(kernel));
    const auto expected = flax_resnet::packed_bytes(problem);
    if (static_cast<std::int64_t>(packed->size_bytes()) != expected) {
      throw InvalidArgument("the packed kernel takes " + std::to_string(expected) + " bytes, not " +
                            std::to_string(packed->size_bytes()));
    }
    flax_resnet::pack(problem, kernel.untyped_data(), packed->untyped_data(), executor_of(pool));
  });
}

ffi::Error InputGradient(ffi::ThreadPool pool, Array dy, Array kernel, Result dx,
                         std::int64_t stride, std::int64_t padding, std::int64_t groups) {
  return catch_errors([&] {
    check_same_dtype(dy, kernel);
    check_same_dtype(dy, *dx);
    const auto problem =
        problem_of(Shape(*dx), Shape(kernel), Shape(dy), stride, padding, groups, dtype_of(dy));
    flax_resnet::input_gradient(problem, dy.untyped_data(), kernel.untyped_data(),
                                dx->untyped_data(), executor_of(pool));
  });
}

// The remaining arguments are not read. They make XLA run this call after their producers.
ffi::Error KernelGradient(ffi::ThreadPool pool, Array x, Array dy, ffi::RemainingArgs,
                          Result dkernel, std::int64_t stride, std::int64_t padding,
                          std::int64_t groups) {
  return catch_errors([&] {
    check_same_dtype(x, dy);
    check_same_dtype(x, *dkernel);
    const auto problem =
        problem_of(Shape(x), Shape(*dkernel), Shape(dy), stride, padding, groups, dtype_of(x));
    flax_resnet::kernel_gradient(problem, x.untyped_data(), dy.untyped_data(),
                                 dkernel->untyped_data(), executor_of(pool));
  });
}

}  // namespace

// All calls take the thread pool first, and the stride, padding and groups last.
static auto bind() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }

template <typename Binding>
static auto with_geometry(Binding binding) {
  return std::move(binding)
      .template Attr<std::int64_t>("stride")
      .template Attr<std::int64_t>("padding")
      .template Attr<std::int64_t>("groups");
}

template <typename Binding>
static auto with_epilogue(Binding binding) {
  return std::move(binding)
      .template Attr<bool>("has_bias")
      .template Attr<bool>("has_residual")
      .template Attr<bool>("relu");
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    flax_resnet_forward, Forward,
    with_epilogue(with_geometry(bind().Arg<Array>().Arg<Array>().RemainingArgs().Ret<Array>())));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    flax_resnet_forward_packed, ForwardPacked,
    with_epilogue(with_geometry(bind()
                                    .Arg<Array>()
                                    .Arg<Array>()
                                    .RemainingArgs()
                                    .Ret<Array>()
                                    .Attr<ffi::Span<const std::int64_t>>("kernel_shape"))));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_resnet_pack, Pack,
                              with_geometry(bind()
                                                .Arg<Array>()
                                                .Ret<Array>()
                                                .Attr<ffi::Span<const std::int64_t>>("x_shape")
                                                .Attr<ffi::Span<const std::int64_t>>("y_shape")));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flax_resnet_input_gradient, InputGradient,
                              with_geometry(bind().Arg<Array>().Arg<Array>().Ret<Array>()));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    flax_resnet_kernel_gradient, KernelGradient,
    with_geometry(bind().Arg<Array>().Arg<Array>().RemainingArgs().Ret<Array>()));

// Plain C functions, which Python calls through ctypes.
extern "C" {

// The name of the instruction set in use, or an empty text if there is none.
const char* flax_resnet_instruction_set() {
  return flax_resnet::instruction_set() == nullptr ? "" : flax_resnet::instruction_set()->name;
}

int flax_resnet_bf16_is_fast() { return flax_resnet::bf16_is_fast() ? 1 : 0; }

const char* flax_resnet_onednn_version() {
  static const std::string text = [] {
    const dnnl_version_t* version = dnnl_version();
    return std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
           std::to_string(version->patch);
  }();
  return text.c_str();
}

// Returns the size in bytes of the packed kernel of this problem, or -1 with the reason in
// `message`.
std::int64_t flax_resnet_packed_bytes(const std::int64_t* x, const std::int64_t* kernel,
                                      const std::int64_t* y, std::int64_t stride,
                                      std::int64_t padding, std::int64_t groups, int is_bf16,
                                      char* message, std::int64_t message_size) {
  try {
    const auto problem = flax_resnet::make_problem(x, 4, kernel, 4, y, 4, stride, padding, groups,
                                                   is_bf16 != 0 ? Dtype::bf16 : Dtype::f32);
    return flax_resnet::packed_bytes(problem);
  } catch (const std::exception& error) {
    std::string text(error.what());
    text.resize(std::min<std::size_t>(text.size(), message_size - 1));
    std::copy(text.begin(), text.end(), message);
    message[text.size()] = 0;
    return -1;
  }
}
}
