#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <utility>

#include "gossamer/runtime.h"

namespace gossamer::detail {

/// A mutex that a fork cannot leave locked for ever. The child of a fork has the thread that forked
/// and none of the others; what one of those had locked, nobody would unlock. Here it counts as
/// unlocked in the child. What the mutex guards may then be half written: publish it in one step,
/// as Once does. Use std::lock_guard with it, and do not wait for it with the GIL held.
class ForkSafeMutex {
 public:
  constexpr ForkSafeMutex() noexcept = default;
  ForkSafeMutex(const ForkSafeMutex&) = delete;
  ForkSafeMutex& operator=(const ForkSafeMutex&) = delete;

  void lock() noexcept;
  [[nodiscard]] bool try_lock() noexcept;
  void unlock() noexcept;

 private:
  // The number of forks between the first process and the one that wrote this, times 4, and
  // whether it is locked and whether somebody waits.
  std::atomic<std::uint32_t> word_{0};
};

/// A value that is made when it is first asked for: once, and the others wait for it. In a forked
/// child that has no thread to finish the making, it is made anew. The making is not interrupted.
template <class T>
class Once {
 public:
  constexpr Once() noexcept = default;
  ~Once() { delete value_.load(std::memory_order_acquire); }
  Once(const Once&) = delete;
  Once& operator=(const Once&) = delete;

  /// The value, which make() returns at the first call. What it throws leaves nothing behind.
  template <class Make>
  const T& get(Make&& make) const {
    if (const T* value = peek()) return *value;
    const std::lock_guard lock(mutex_);
    if (const T* value = peek()) return *value;
    // A caller's check for interrupts may run any code, which may ask for this very value.
    const InterruptScope uninterrupted(nullptr, nullptr);
    const T* value = new T(std::forward<Make>(make)());
    value_.store(value, std::memory_order_release);
    return *value;
  }

  /// The value, or nullptr where there is none yet. Never waits.
  [[nodiscard]] const T* peek() const noexcept { return value_.load(std::memory_order_acquire); }

 private:
  mutable ForkSafeMutex mutex_;
  mutable std::atomic<const T*> value_{nullptr};
};

}  // namespace gossamer::detail
