// What an own float32 convolution algorithm consists of. instruction_set.h has the tables of them.
#pragma once

#include <cstdint>

#include "epilogue.h"
#include "executor.h"
#include "implicit_gemm.h"
#include "problem.h"

namespace flax_resnet {

// An algorithm for implicit GEMMs, and so for a convolution and its input gradient.
//
// The kernel is packed first. Packed kernels are aligned to 64 bytes, and serve all image shapes
// for which the same algorithm is chosen.
struct Algorithm {
  const char* name;
  bool (*is_supported)(const Problem& problem);
  // Whether this algorithm is faster than the alternatives. With `packed` the kernel is already
  // packed.
  bool (*is_profitable)(const Problem& problem, bool packed);
  // The size of a GEMM's packed kernel in floats, the function that packs it, and the computation.
  std::int64_t (*packed_size)(const ImplicitGemm& gemm);
  void (*pack_gemm)(const ImplicitGemm& gemm, const float* kernel, float* packed,
                    const Executor& executor);
  void (*run)(const ImplicitGemm& gemm, const float* packed, const Epilogue& epilogue,
              const Executor& executor);
  // Whether computing with the unpacked kernel is faster than packing it for one call, and the
  // computation without packing. Both are null if the algorithm always packs.
  bool (*skips_packing)(const ImplicitGemm& gemm) = nullptr;
  void (*run_unpacked)(const ImplicitGemm& gemm, const float* kernel, const Epilogue& epilogue,
                       const Executor& executor) = nullptr;

  std::int64_t packed_bytes(const Problem& problem) const;
  void pack(const Problem& problem, const float* kernel, float* packed,
            const Executor& executor) const;
  void forward(const Problem& problem, const float* x, const float* packed,
               const Epilogue& epilogue, float* y, const Executor& executor) const;
  // The same as `forward`, with an unpacked kernel.
  void forward_unpacked(const Problem& problem, const float* x, const float* kernel,
                        const Epilogue& epilogue, float* y, const Executor& executor) const;
  void input_gradient(const Problem& problem, const float* dy, const float* kernel, float* dx,
                      const Executor& executor) const;

 private:
  void pack_and_run(const ImplicitGemm& gemm, const float* kernel, const Epilogue& epilogue,
                    const Executor& executor) const;
};

// An algorithm for the kernel gradient.
struct KernelGradientAlgorithm {
  const char* name;
  bool (*is_supported)(const Problem& problem);
  bool (*is_profitable)(const Problem& problem);
  void (*run)(const Problem& problem, const float* x, const float* dy, float* dkernel,
              const Executor& executor);
};

}  // namespace flax_resnet
