#pragma once

#include <chrono>
#include <cstdint>

#include "gossamer/runtime.h"

namespace gossamer::detail {

/// What the InterruptScope of a thread asks for, and when it was last done.
struct InterruptState {
  InterruptScope::Check check = nullptr;
  void* context = nullptr;
  std::uint64_t last = 0;  // in ticks; 0 where no loop has looked yet

  /// Calls `check` if the last call is long enough ago.
  void look(std::uint64_t now);
};

extern constinit thread_local InterruptState own_interrupt;

/// A clock that takes a few nanoseconds to read; its unit differs from machine to machine.
inline std::uint64_t ticks() noexcept {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  std::uint64_t count;
  asm volatile("mrs %0, cntvct_el0" : "=r"(count));
  return count;
#else
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}

/// Ticks between two calls of an interrupt check: 0.05 to 0.27 seconds.
inline std::uint64_t ticks_between_checks() noexcept {
#if defined(__x86_64__)
  return std::uint64_t{1} << 28;  // at 1 to 5 GHz
#elif defined(__aarch64__)
  std::uint64_t per_second;
  asm volatile("mrs %0, cntfrq_el0" : "=r"(per_second));
  return per_second / 8;
#else
  using Period = std::chrono::steady_clock::period;
  return static_cast<std::uint64_t>(Period::den / Period::num / 8);
#endif
}

/// For the loops of an operation that may take long: look() between two pieces of work, on the
/// thread that called the operation. parallel_for looks after each task; loops of many small jobs
/// and loops without any must look themselves.
class InterruptPoll {
 public:
  InterruptPoll() noexcept : state_(own_interrupt.check != nullptr ? &own_interrupt : nullptr) {}

  /// Throws what the caller's check throws.
  void look() const {
    if (state_ == nullptr) return;
    const std::uint64_t now = ticks();
    if (now - state_->last > ticks_between_checks()) [[unlikely]] {
      state_->look(now);
    }
  }

 private:
  InterruptState* state_;
};

/// While it lives, nothing interrupts its thread. What an operation updates in place is written
/// under it, in one pass after all that may take long: so it is updated whole or not at all.
class Uninterrupted {
 public:
  Uninterrupted() noexcept : none_(nullptr, nullptr) {}

 private:
  InterruptScope none_;
};

}  // namespace gossamer::detail
