#include "ways.h"

#include <algorithm>

#include "processor.h"
#include "scratch.h"

namespace flax_resnet {
namespace {

std::int64_t bytes_of(std::int64_t numbers) {
  return numbers * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace

std::int64_t Way::packed_bytes(const Problem& p) const {
  return bytes_of(packed_size(forward_product(p, nullptr, nullptr)));
}

void Way::pack(const Problem& p, const float* kernel, float* packed,
               const Executor& executor) const {
  pack_product(forward_product(p, nullptr, nullptr), kernel, packed, executor);
}

void Way::forward(const Problem& p, const float* x, const float* packed, const Epilogue& epilogue,
                  float* y, const Executor& executor) const {
  run(forward_product(p, x, y), packed, epilogue, executor);
}

void Way::run_once(const Product& product, const float* kernel, const Epilogue& epilogue,
                   const Executor& executor) const {
  if (is_few != nullptr && is_few(product)) return run_few(product, kernel, epilogue, executor);
  thread_local Scratch scratch;
  auto* const packed = static_cast<float*>(scratch.get(bytes_of(packed_size(product))));
  pack_product(product, kernel, packed, executor);
  run(product, packed, epilogue, executor);
}

void Way::forward_once(const Problem& p, const float* x, const float* kernel,
                       const Epilogue& epilogue, float* y, const Executor& executor) const {
  run_once(forward_product(p, x, y), kernel, epilogue, executor);
}

void Way::input_gradient(const Problem& p, const float* dy, const float* kernel, float* dx,
                         const Executor& executor) const {
  for (std::int64_t row = 0; row < std::min(p.stride, p.height); ++row) {
    for (std::int64_t column = 0; column < std::min(p.stride, p.width); ++column) {
      const Product product = gradient_product(p, dy, dx, row, column);
      if (product.taps.empty()) {
        clear(product, executor);
        continue;
      }
      run_once(product, kernel, {}, executor);
    }
  }
}

bool own_kernels_suit(const Problem& p) {
  static const bool suits = has_avx2() && !__builtin_cpu_supports("avx512f");
  return suits && p.dtype == Dtype::f32;
}

}  // namespace flax_resnet
