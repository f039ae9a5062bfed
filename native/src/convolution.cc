#include "convolution.h"

#include <cstdio>
#include <cstring>

#include "onednn.h"

namespace flax_resnet {
namespace {

// Returns the first of our own algorithms that is supported and profitable, or null for oneDNN.
const Algorithm* choose_algorithm(const Problem& p, bool packed) {
  for (const Algorithm* algorithm : algorithms) {
    if (algorithm->is_supported(p) && algorithm->is_profitable(p, packed)) return algorithm;
  }
  return nullptr;
}

const float* as_floats(const void* array) { return static_cast<const float*>(array); }
float* as_floats(void* array) { return static_cast<float*>(array); }

// A packed kernel is a header that identifies its layout, followed by the weights.
constexpr std::int64_t header_bytes = 64;

struct Header {
  char text[header_bytes] = {};

  Header(const Problem& p, const Algorithm* algorithm) {
    if (algorithm != nullptr) {
      std::snprintf(text, header_bytes, "flax_resnet %s", algorithm->name);
    } else {
      std::snprintf(text, header_bytes, "flax_resnet %016zx", onednn::layout_hash(p));
    }
  }
};

std::int64_t packed_bytes(const Problem& p, const Algorithm* algorithm) {
  return header_bytes +
         (algorithm != nullptr ? algorithm->packed_bytes(p) : onednn::packed_bytes(p));
}

}  // namespace

void forward(const Problem& p, const void* x, const void* kernel, const Epilogue& epilogue, void* y,
             const Executor& executor) {
  const Algorithm* const algorithm = choose_algorithm(p, false);
  if (algorithm == nullptr) return onednn::forward(p, x, kernel, epilogue, y, executor);
  algorithm->forward_unpacked(p, as_floats(x), as_floats(kernel), epilogue, as_floats(y), executor);
}

void input_gradient(const Problem& p, const void* dy, const void* kernel, void* dx,
                    const Executor& executor) {
  const Algorithm* const algorithm = choose_algorithm(p, false);
  if (algorithm == nullptr) return onednn::input_gradient(p, dy, kernel, dx, executor);
  algorithm->input_gradient(p, as_floats(dy), as_floats(kernel), as_floats(dx), executor);
}

void kernel_gradient(const Problem& p, const void* x, const void* dy, void* dkernel,
                     const Executor& executor) {
  for (const KernelGradientAlgorithm* algorithm : kernel_gradient_algorithms) {
    if (!algorithm->is_supported(p) || !algorithm->is_profitable(p)) continue;
    return algorithm->run(p, as_floats(x), as_floats(dy), as_floats(dkernel), executor);
  }
  onednn::kernel_gradient(p, x, dy, dkernel, executor);
}

std::int64_t packed_bytes(const Problem& p) { return packed_bytes(p, choose_algorithm(p, true)); }

void pack(const Problem& p, const void* kernel, void* packed, const Executor& executor) {
  const Algorithm* const algorithm = choose_algorithm(p, true);
  std::memcpy(packed, Header(p, algorithm).text, header_bytes);
  void* const weights = static_cast<char*>(packed) + header_bytes;
  if (algorithm == nullptr) return onednn::pack(p, kernel, weights);
  algorithm->pack(p, as_floats(kernel), as_floats(weights), executor);
}

void forward_packed(const Problem& p, const void* x, const void* packed, std::int64_t bytes,
                    const Epilogue& epilogue, void* y, const Executor& executor) {
  const Algorithm* const algorithm = choose_algorithm(p, true);
  if (bytes != packed_bytes(p, algorithm) ||
      std::memcmp(packed, Header(p, algorithm).text, header_bytes) != 0) {
    throw InvalidArgument(
        "this kernel was packed for images of another shape or on another machine: pack it again");
  }
  const void* const weights = static_cast<const char*>(packed) + header_bytes;
  if (algorithm == nullptr) return onednn::forward_packed(p, x, weights, epilogue, y, executor);
  algorithm->forward(p, as_floats(x), as_floats(weights), epilogue, as_floats(y), executor);
}

}  // namespace flax_resnet
