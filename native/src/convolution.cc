#include "convolution.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "instruction_set.h"
#include "onednn.h"

namespace flax_resnet {
namespace {

// Which algorithms are used: for each problem the fastest one as far as is known, always one of our
// own that supports the problem, or always oneDNN's. The first use reads the environment's variable
// FLAX_RESNET_ALGORITHMS: "fastest" (the default), "own" or "onednn".
enum class Preference { fastest, own, onednn };

Preference preference_of(const std::string& name) {
  if (name == "fastest") return Preference::fastest;
  if (name == "own") return Preference::own;
  if (name == "onednn") return Preference::onednn;
  throw InvalidArgument("FLAX_RESNET_ALGORITHMS is fastest, own or onednn, not " + name);
}

Preference preference() {
  static const Preference value = [] {
    const char* const name = std::getenv("FLAX_RESNET_ALGORITHMS");
    return name == nullptr ? Preference::fastest : preference_of(name);
  }();
  return value;
}

// Calls is_profitable(algorithm) for the algorithms of a table that support the problem, and
// returns the first one that is, or null for oneDNN.
template <typename Algorithm, std::size_t size, typename IsProfitable>
const Algorithm* choose(const Algorithm* const (&table)[size], const Problem& p,
                        IsProfitable is_profitable) {
  const Preference preferred = preference();
  if (p.dtype != Dtype::f32 || preferred == Preference::onednn) return nullptr;
  if (preferred == Preference::fastest && !instruction_set()->is_measured) return nullptr;
  for (const Algorithm* algorithm : table) {
    if (!algorithm->is_supported(p)) continue;
    if (preferred == Preference::own || is_profitable(*algorithm)) return algorithm;
  }
  return nullptr;
}

const Algorithm* choose_algorithm(const Problem& p, bool packed) {
  if (instruction_set() == nullptr) return nullptr;
  return choose(instruction_set()->algorithms, p,
                [&](const Algorithm& algorithm) { return algorithm.is_profitable(p, packed); });
}

const KernelGradientAlgorithm* choose_kernel_gradient(const Problem& p) {
  if (instruction_set() == nullptr) return nullptr;
  return choose(
      instruction_set()->kernel_gradient_algorithms, p,
      [&](const KernelGradientAlgorithm& algorithm) { return algorithm.is_profitable(p); });
}

const float* as_floats(const void* array) { return static_cast<const float*>(array); }
float* as_floats(void* array) { return static_cast<float*>(array); }

// A packed kernel is a header that identifies its layout, followed by the weights.
constexpr std::int64_t header_bytes = 64;

struct Header {
  char text[header_bytes] = {};

  Header(const Problem& p, const Algorithm* algorithm) {
    if (algorithm != nullptr) {
      std::snprintf(text, header_bytes, "flax_resnet %s %s", instruction_set()->name,
                    algorithm->name);
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
  const KernelGradientAlgorithm* const algorithm = choose_kernel_gradient(p);
  if (algorithm == nullptr) return onednn::kernel_gradient(p, x, dy, dkernel, executor);
  algorithm->run(p, as_floats(x), as_floats(dy), as_floats(dkernel), executor);
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
