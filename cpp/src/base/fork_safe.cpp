#include "base/fork_safe.h"

#include <pthread.h>

namespace gossamer::detail {
namespace {

constexpr std::uint32_t kLocked = 1, kForked = 2;

/// kForked times the number of forks between the first process and this one.
constinit std::atomic<std::uint32_t> process{0};

// Registered when the library is loaded, not at the first use: a function's static variable has a
// lock of its own.
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { process.fetch_add(kForked, std::memory_order_relaxed); });

}  // namespace

bool ForkSafeMutex::try_lock() noexcept {
  const std::uint32_t own = process.load(std::memory_order_relaxed);
  std::uint32_t seen = word_.load(std::memory_order_relaxed);
  if (seen >= own && (seen & kLocked) != 0) return false;
  return word_.compare_exchange_strong(seen, own | kLocked, std::memory_order_acquire);
}

void ForkSafeMutex::unlock() noexcept {
  word_.store(process.load(std::memory_order_relaxed), std::memory_order_release);
}

}  // namespace gossamer::detail
