#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "base/interrupt.h"

namespace gossamer::detail {

/// A mutex that a fork cannot leave locked for ever. The child of a fork has the thread that forked
/// and none of the others; a mutex that one of those had locked is never unlocked. Here it counts
/// as unlocked in the child. What the mutex guards may then be half written: publish it in one
/// step, as Once does. There is no lock() that sleeps until the mutex is free, as it could not be
/// interrupted.
class ForkSafeMutex {
 public:
  constexpr ForkSafeMutex() noexcept = default;
  ForkSafeMutex(const ForkSafeMutex&) = delete;
  ForkSafeMutex& operator=(const ForkSafeMutex&) = delete;

  [[nodiscard]] bool try_lock() noexcept;
  void unlock() noexcept;

 private:
  // Whether it is locked, and twice the number of forks between the first process and the one that
  // wrote this.
  std::atomic<std::uint32_t> word_{0};
};

/// A value that is made when it is first asked for: once, and other threads wait for it, without
/// the GIL. In a forked child that has no thread to finish the making, it is made anew.
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
    // An interrupt of the making may run code that asks for the value on the same thread: that
    // makes a second one instead of waiting for itself, and the first to be done is kept.
    if (maker_.load(std::memory_order_relaxed) == &own_interrupt) return make_with(make);
    std::unique_lock lock(mutex_, std::try_to_lock);
    for (const InterruptPoll interrupt; !lock; lock.try_lock()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      interrupt.look();
      if (const T* value = peek()) return *value;
    }
    if (const T* value = peek()) return *value;
    maker_.store(&own_interrupt, std::memory_order_relaxed);
    const Unset unset{maker_};
    return make_with(make);
  }

  /// The value, or nullptr where there is none yet. Never waits.
  [[nodiscard]] const T* peek() const noexcept { return value_.load(std::memory_order_acquire); }

 private:
  struct Unset {
    std::atomic<const void*>& maker;
    ~Unset() { maker.store(nullptr, std::memory_order_relaxed); }
  };

  template <class Make>
  const T& make_with(Make& make) const {
    auto made = std::unique_ptr<const T>(new T(make()));
    const T* before = nullptr;
    if (value_.compare_exchange_strong(before, made.get(), std::memory_order_acq_rel)) {
      return *made.release();
    }
    return *before;
  }

  mutable ForkSafeMutex mutex_;
  mutable std::atomic<const void*> maker_{nullptr};  // something that its thread alone has
  mutable std::atomic<const T*> value_{nullptr};
};

}  // namespace gossamer::detail
