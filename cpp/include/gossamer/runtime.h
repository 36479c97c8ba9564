#pragma once

#include <string>
#include <vector>

namespace gossamer {

/// "MAJOR.MINOR.PATCH".
[[nodiscard]] const char* version() noexcept;

/// The instruction-set level whose kernels this process runs: "baseline", "x86-64-v3", …
/// The best that the machine has unless GOSSAMER_ISA names another.
[[nodiscard]] const char* isa();

/// The levels that were built and that this machine can run, slowest first.
[[nodiscard]] std::vector<std::string> available_isas();

/// Threads that an operation may use, the caller's included. The default is GOSSAMER_NUM_THREADS,
/// else OMP_NUM_THREADS, else the processors that this process may use at once: those that it may
/// run on, or fewer where a control group limits their time, as that of a container does.
[[nodiscard]] int num_threads();

/// Throws ValueError unless 1 ≤ n ≤ 1024. Results do not depend on it. Where the system grants
/// fewer threads than n, operations run on those that it grants.
void set_num_threads(int n);

/// While it lives, long operations that this thread calls call check(context) about every tenth of
/// a second, on this thread, between two pieces of their work. What `check` throws leaves the
/// operation, and the outputs of that operation then hold anything; what it updates in place (names
/// that end in _, Packed::update) is as before. For example a check for a signal: operations
/// neither install nor handle any.
class InterruptScope {
 public:
  using Check = void (*)(void* context);

  InterruptScope(Check check, void* context) noexcept;
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  Check check_before_;
  void* context_before_;
};

}  // namespace gossamer
