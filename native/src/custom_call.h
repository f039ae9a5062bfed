// Helpers that all custom calls share: array shapes, the thread pool, and error conversion.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "executor.h"
#include "oneapi/dnnl/dnnl.hpp"
#include "problem.h"
#include "xla/ffi/api/ffi.h"

namespace flax_resnet {

namespace ffi = xla::ffi;
using Array = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

struct Shape {
  std::vector<std::int64_t> dims;
  explicit Shape(const Array& array) {
    const auto span = array.dimensions();
    dims.assign(span.begin(), span.end());
  }
  explicit Shape(ffi::Span<const std::int64_t> span) : dims(span.begin(), span.end()) {}
};

inline Executor executor_of(ffi::ThreadPool& pool) {
  return Executor(pool.num_threads(),
                  [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
}

template <typename Function>
ffi::Error catch_errors(Function function) {
  try {
    function();
    return ffi::Error::Success();
  } catch (const InvalidArgument& error) {
    return ffi::Error::InvalidArgument(error.what());
  } catch (const dnnl::error& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
}

}  // namespace flax_resnet
