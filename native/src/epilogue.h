// The operations that follow a convolution's sums, fused into the pass that writes the result.
#pragma once

#include <cstdint>

namespace flax_resnet {

// y = relu(sums + bias + residual), where each of the three is optional.
struct Epilogue {
  const void* bias = nullptr;      // [F], of the problem's dtype, or null.
  const void* residual = nullptr;  // Of the result's shape and dtype, or null.
  bool relu = false;

  // The bias of a float32 convolution from a feature on, or null.
  const float* bias_at(std::int64_t feature) const { return at(bias, feature); }
  // The residual of a float32 convolution from an offset in the result on, or null.
  const float* residual_at(std::int64_t offset) const { return at(residual, offset); }

 private:
  static const float* at(const void* array, std::int64_t offset) {
    return array == nullptr ? nullptr : static_cast<const float*>(array) + offset;
  }
};

}  // namespace flax_resnet
