// Memory of one thread, kept between calls, grown when it must be.
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

  // At least `bytes`, aligned to 4096, of undefined contents; good until the next call.
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

// So many numbers for each of several arrays, one after another: rounded up, so that the same place in
// all lies in different sets of the caches.
inline std::int64_t plane_of(std::int64_t numbers) { return (numbers + 1023) / 1024 * 1024 + 32; }

}  // namespace flax_resnet
