#pragma once

#include <cstddef>
#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::cuda {

/// Divides a workspace into parts. With a null base, computes how large it must be.
class Carver {
 public:
  explicit Carver(void* base) noexcept : base_(static_cast<std::byte*>(base)) {}

  template <class T>
  T* take(std::int64_t count) {
    return static_cast<T*>(take_bytes(count * static_cast<std::int64_t>(sizeof(T))));
  }
  void* take_bytes(std::int64_t bytes) {
    void* part = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + 15) / 16 * 16;
    return part;
  }
  [[nodiscard]] std::int64_t used() const noexcept { return used_; }

 private:
  std::byte* base_;
  std::int64_t used_ = 0;
};

/// Bytes of a sum of products of numbers of a type.
[[nodiscard]] inline std::int64_t sum_size(DType dtype) noexcept {
  return dtype == DType::f64 ? 8 : 4;
}

}  // namespace gossamer::cuda
