#include "convolution.h"

#include <cstdio>
#include <cstring>

#include "onednn.h"

namespace flax_resnet {
namespace {

// Null: oneDNN's.
const Way* way_of(const Problem& p, bool packed) {
  for (const Way* way : ways) {
    if (way->can(p) && way->pays(p, packed)) return way;
  }
  return nullptr;
}

const float* floats(const void* numbers) { return static_cast<const float*>(numbers); }
float* floats(void* numbers) { return static_cast<float*>(numbers); }

// A packed kernel is a header, which tells its layout, and the numbers.
constexpr std::int64_t header_bytes = 64;

struct Header {
  char text[header_bytes] = {};

  Header(const Problem& p, const Way* way) {
    if (way != nullptr) {
      std::snprintf(text, header_bytes, "flax_resnet %s", way->name);
    } else {
      std::snprintf(text, header_bytes, "flax_resnet %016zx", onednn::layout_hash(p));
    }
  }
};

std::int64_t packed_bytes(const Problem& p, const Way* way) {
  return header_bytes + (way != nullptr ? way->packed_bytes(p) : onednn::packed_bytes(p));
}

}  // namespace

void forward(const Problem& p, const void* x, const void* kernel, const Epilogue& epilogue, void* y,
             const Executor& executor) {
  const Way* const way = way_of(p, false);
  if (way == nullptr) return onednn::forward(p, x, kernel, epilogue, y, executor);
  way->forward_once(p, floats(x), floats(kernel), epilogue, floats(y), executor);
}

void input_gradient(const Problem& p, const void* dy, const void* kernel, void* dx,
                    const Executor& executor) {
  const Way* const way = way_of(p, false);
  if (way == nullptr) return onednn::input_gradient(p, dy, kernel, dx, executor);
  way->input_gradient(p, floats(dy), floats(kernel), floats(dx), executor);
}

void kernel_gradient(const Problem& p, const void* x, const void* dy, void* dkernel,
                     const Executor& executor) {
  for (const GradientWay* way : gradient_ways) {
    if (!way->can(p) || !way->pays(p)) continue;
    return way->run(p, floats(x), floats(dy), floats(dkernel), executor);
  }
  onednn::kernel_gradient(p, x, dy, dkernel, executor);
}

std::int64_t packed_bytes(const Problem& p) { return packed_bytes(p, way_of(p, true)); }

void pack(const Problem& p, const void* kernel, void* packed, const Executor& executor) {
  const Way* const way = way_of(p, true);
  std::memcpy(packed, Header(p, way).text, header_bytes);
  void* const numbers = static_cast<char*>(packed) + header_bytes;
  if (way == nullptr) return onednn::pack(p, kernel, numbers);
  way->pack(p, floats(kernel), floats(numbers), executor);
}

void forward_packed(const Problem& p, const void* x, const void* packed, std::int64_t bytes,
                    const Epilogue& epilogue, void* y, const Executor& executor) {
  const Way* const way = way_of(p, true);
  if (bytes != packed_bytes(p, way) ||
      std::memcmp(packed, Header(p, way).text, header_bytes) != 0) {
    throw BadArgument("this kernel was packed for images of another shape or on another machine: "
                      "pack it anew");
  }
  const void* const numbers = static_cast<const char*>(packed) + header_bytes;
  if (way == nullptr) return onednn::forward_packed(p, x, numbers, epilogue, y, executor);
  way->forward(p, floats(x), floats(numbers), epilogue, floats(y), executor);
}

}  // namespace flax_resnet
