#pragma once

#include <cstddef>
#include <cstdint>

#include "base/buffer.h"

namespace gossamer::detail {

/// Memory that a piece of work needs while it runs, at least `bytes` long, 64-byte aligned and not
/// initialised. It comes from the calling thread's arena and goes back there: fresh pages cost more
/// than small products. While it lives, no other Scratch has any of its bytes.
class Scratch {
 public:
  explicit Scratch(std::int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  [[nodiscard]] std::byte* data() const noexcept { return block_.data(); }
  template <class T>
  [[nodiscard]] T* as() const noexcept {
    return reinterpret_cast<T*>(block_.data());
  }

 private:
  Buffer<std::byte> block_;
};

/// Bytes that the calling thread's arena holds and no Scratch uses.
std::int64_t idle_scratch() noexcept;

}  // namespace gossamer::detail
