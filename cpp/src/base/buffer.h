#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gossamer::detail {

/// AddressSanitizer sees only what leaves an allocation: with it, none is rounded up or kept.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

/// Asks for huge pages under `bytes` of memory, where there are enough: faults of 4 KiB pages
/// otherwise take much of the time of filling a large new output.
inline void ask_for_huge_pages(void* data, std::int64_t bytes) noexcept {
#if defined(__linux__)
  constexpr std::uintptr_t kPage = 4096;
  if (bytes < (std::int64_t{4} << 20)) return;
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t begin = (first + kPage - 1) / kPage * kPage;
  const std::uintptr_t end = (first + static_cast<std::uintptr_t>(bytes)) / kPage * kPage;
  static_cast<void>(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
#else
  static_cast<void>(data);
  static_cast<void>(bytes);
#endif
}

/// Owned, uninitialised, 64-byte aligned storage. Large buffers ask for huge pages: streaming a
/// packed matrix otherwise misses the TLB every 4 KiB.
template <class T>
class Buffer {
  static_assert(std::is_trivial_v<T>);

 public:
  Buffer() = default;
  explicit Buffer(std::int64_t size) : size_(size) {
    if (size == 0) return;
    if (size < 0 || size > kMaxBytes / static_cast<std::int64_t>(sizeof(T))) throw std::bad_alloc();
    constexpr std::size_t kHuge = std::size_t{2} << 20;
    std::size_t bytes = static_cast<std::size_t>(size) * sizeof(T);
    const std::size_t alignment = bytes >= 2 * kHuge ? kHuge : 64;
    void* data = nullptr;
    if constexpr (!kAddressSanitizer) bytes = (bytes + alignment - 1) / alignment * alignment;
    if (posix_memalign(&data, alignment, bytes) != 0) throw std::bad_alloc();
    data_ = static_cast<T*>(data);
    ask_for_huge_pages(data_, static_cast<std::int64_t>(bytes));
  }
  ~Buffer() { std::free(data_); }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  [[nodiscard]] T* data() const noexcept { return data_; }
  [[nodiscard]] std::int64_t size() const noexcept { return size_; }
  [[nodiscard]] std::int64_t bytes() const noexcept {
    return size_ * static_cast<std::int64_t>(sizeof(T));
  }
  [[nodiscard]] T& operator[](std::int64_t i) const noexcept { return data_[i]; }

 private:
  static constexpr std::int64_t kMaxBytes = std::int64_t{1} << 60;
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace gossamer::detail
