#include "algorithms.h"

#include <algorithm>

#include "scratch.h"

namespace flax_resnet {
namespace {

std::int64_t bytes_of(std::int64_t count) {
  return count * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace

std::int64_t Algorithm::packed_bytes(const Problem& p) const {
  return bytes_of(packed_size(forward_gemm(p, nullptr, nullptr)));
}

void Algorithm::pack(const Problem& p, const float* kernel, float* packed,
                     const Executor& executor) const {
  pack_gemm(forward_gemm(p, nullptr, nullptr), kernel, packed, executor);
}

void Algorithm::forward(const Problem& p, const float* x, const float* packed,
                        const Epilogue& epilogue, float* y, const Executor& executor) const {
  run(forward_gemm(p, x, y), packed, epilogue, executor);
}

void Algorithm::pack_and_run(const ImplicitGemm& gemm, const float* kernel,
                             const Epilogue& epilogue, const Executor& executor) const {
  if (skips_packing != nullptr && skips_packing(gemm)) {
    return run_unpacked(gemm, kernel, epilogue, executor);
  }
  thread_local Scratch scratch;
  auto* const packed = static_cast<float*>(scratch.get(bytes_of(packed_size(gemm))));
  pack_gemm(gemm, kernel, packed, executor);
  run(gemm, packed, epilogue, executor);
}

void Algorithm::forward_unpacked(const Problem& p, const float* x, const float* kernel,
                                 const Epilogue& epilogue, float* y,
                                 const Executor& executor) const {
  pack_and_run(forward_gemm(p, x, y), kernel, epilogue, executor);
}

void Algorithm::input_gradient(const Problem& p, const float* dy, const float* kernel, float* dx,
                               const Executor& executor) const {
  for (std::int64_t row = 0; row < std::min(p.stride, p.height); ++row) {
    for (std::int64_t column = 0; column < std::min(p.stride, p.width); ++column) {
      const ImplicitGemm gemm = input_gradient_gemm(p, dy, dx, row, column);
      if (gemm.taps.empty()) {
        zero_result(gemm, executor);
        continue;
      }
      pack_and_run(gemm, kernel, {}, executor);
    }
  }
}

}  // namespace flax_resnet
