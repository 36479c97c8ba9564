#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>

namespace gossamer::detail {

inline constexpr std::int64_t kAllHelpers = std::numeric_limits<std::int64_t>::max();

/// Calls fn(task) for every task in [0, tasks), each task once, in no promised order, on up to
/// num_threads() threads: the caller's and at most `helpers` more. Returns when all are done. Where
/// another caller holds the pool, or fewer than two tasks are given, the caller runs them alone.
/// The first exception of a task is rethrown.
void parallel_for(std::int64_t tasks, void (*fn)(void*, std::int64_t), void* context,
                  std::int64_t helpers = kAllHelpers);

template <class F>
void parallel_for(std::int64_t tasks, F&& body, std::int64_t helpers = kAllHelpers) {
  using Body = std::remove_reference_t<F>;
  parallel_for(
      tasks, [](void* context, std::int64_t task) { (*static_cast<Body*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))), helpers);
}

}  // namespace gossamer::detail
