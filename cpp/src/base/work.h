#pragma once

// How work is cut into tasks, and when it is worth more than one thread. A result never depends on
// these sizes: each output element is computed by one thread, in an order that the operands fix.

#include <algorithm>
#include <cstdint>

#include "base/pool.h"
#include "gossamer/runtime.h"

namespace gossamer::detail {

/// Less work than this, in nanoseconds of one thread, is done by the caller alone: waking workers
/// costs more than they save. Small products on two cores gained from about here on.
inline constexpr double kWakeNanoseconds = 4e3;

/// Elements of a task where an element takes about a nanosecond or less: long beside the cost of
/// claiming a task, short enough that all threads end at about the same time.
inline constexpr std::int64_t kTaskElements = std::int64_t{1} << 15;

[[nodiscard]] constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) noexcept {
  return (a + b - 1) / b;
}

/// Tasks that `work` elements are cut into: a few for each thread, so that uneven ones even out.
inline std::int64_t task_count(std::int64_t work) {
  return std::clamp<std::int64_t>(work / kTaskElements, 1, std::int64_t{8} * num_threads());
}

/// Runs the tasks in parallel, or on the calling thread where it needs few `nanoseconds` for all:
/// on so many threads that each saves more than waking it costs.
template <class F>
void for_tasks(std::int64_t tasks, double nanoseconds, F&& body) {
  if (nanoseconds < kWakeNanoseconds) {
    for (std::int64_t task = 0; task < tasks; ++task) body(task);
  } else {
    parallel_for(tasks, body,
                 static_cast<std::int64_t>(std::min(nanoseconds / kWakeNanoseconds, 1e6)));
  }
}

}  // namespace gossamer::detail
