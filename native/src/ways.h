// Kernels of our own for float32 convolutions, where oneDNN 3.2 is slow: on processors with AVX2 but
// not AVX-512.
#pragma once

#include <cstdint>

#include "executor.h"
#include "problem.h"
#include "product.h"

namespace flax_resnet {

// What follows the sum of products: y = relu(conv + bias + residual), each where it is given.
struct Epilogue {
  const void* bias = nullptr;      // [F], of the problem's dtype
  const void* residual = nullptr;  // like the result
  bool relu = false;
};

// A way to compute products, and so a convolution and its input gradient. The kernel is packed first;
// packed kernels are aligned to 32 bytes and fit any images for which the same way pays.
struct Way {
  const char* name;
  bool (*can)(const Problem& problem);
  // Whether it is the better way; `packed`: where the kernel has been packed beforehand.
  bool (*pays)(const Problem& problem, bool packed);
  // Of a product: the numbers of its packed kernel, packing that, and computing.
  std::int64_t (*packed_size)(const Product& product);
  void (*pack_product)(const Product& product, const float* kernel, float* packed,
                       const Executor& executor);
  void (*run)(const Product& product, const float* packed, const Epilogue& epilogue,
              const Executor& executor);
  // Whether it is better not to pack a kernel for one call; and computing so. Null: never.
  bool (*is_few)(const Product& product) = nullptr;
  void (*run_few)(const Product& product, const float* kernel, const Epilogue& epilogue,
                  const Executor& executor) = nullptr;

  std::int64_t packed_bytes(const Problem& problem) const;
  void pack(const Problem& problem, const float* kernel, float* packed,
            const Executor& executor) const;
  void forward(const Problem& problem, const float* x, const float* packed,
               const Epilogue& epilogue, float* y, const Executor& executor) const;
  // With a kernel as it is.
  void forward_once(const Problem& problem, const float* x, const float* kernel,
                    const Epilogue& epilogue, float* y, const Executor& executor) const;
  void input_gradient(const Problem& problem, const float* dy, const float* kernel, float* dx,
                      const Executor& executor) const;

 private:
  void run_once(const Product& product, const float* kernel, const Epilogue& epilogue,
                const Executor& executor) const;
};

// A way to compute a kernel gradient.
struct GradientWay {
  const char* name;
  bool (*can)(const Problem& problem);
  bool (*pays)(const Problem& problem);
  void (*run)(const Problem& problem, const float* x, const float* dy, float* dkernel,
              const Executor& executor);
};

extern const Way grouped, indirect, winograd;
extern const GradientWay grouped_gradient, kernel_gradient_by_tiles, winograd_gradient;

// The first that can and pays is taken.
constexpr const Way* ways[] = {&grouped, &winograd, &indirect};
constexpr const GradientWay* gradient_ways[] = {&grouped_gradient, &winograd_gradient,
                                                &kernel_gradient_by_tiles};

// Whether this processor is one for them, and the problem too: float32.
bool own_kernels_suit(const Problem& problem);

}  // namespace flax_resnet
