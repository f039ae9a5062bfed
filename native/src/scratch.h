// Temporary memory of one thread, which is kept between calls and grows when it is too small.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace flax_resnet {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // Returns at least `bytes` of memory, aligned to 4096 bytes. The contents are undefined, and the
  // memory is valid until the next call.
  void* get(std::size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
      data_ = std::aligned_alloc(4096, rounded);
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = rounded;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

// Returns the padded size, in floats, of each of several planes of `size` floats that follow one
// another in memory. The padding maps the same index of different planes to different cache sets.
inline std::int64_t padded_plane(std::int64_t size) { return (size + 1023) / 1024 * 1024 + 32; }

}  // namespace flax_resnet
