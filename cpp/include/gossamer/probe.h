#pragma once

#include <cstdint>
#include <memory>

namespace gossamer {

// The limits of this machine, as the kernels of the chosen ISA level meet them on num_threads()
// threads: the best of the samples taken in about `seconds`. For reports; no operation asks.

/// Bytes per second read when each thread streams over its own `bytes` again and again (rounded up
/// to a multiple of 4 KiB). Throws ValueError unless bytes > 0 and seconds > 0.
[[nodiscard]] double read_bandwidth(std::int64_t bytes, double seconds);

/// float32 operations per second of multiply-adds on registers. Throws ValueError unless
/// seconds > 0.
[[nodiscard]] double fma_peak(double seconds);

/// Operations per second of multiply-adds of bfloat16 on tiles (AMX), 0 where the chosen level has
/// none. Throws ValueError unless seconds > 0.
[[nodiscard]] double tile_peak(double seconds);

/// Memory of its own, to be read whole by num_threads() threads, each a contiguous part: the least
/// time that an operation on as many bytes could take, for whoever times both in turn.
class ReadProbe {
 public:
  /// Rounds `bytes` up so that each thread has a multiple of 4 KiB. Throws ValueError unless > 0.
  explicit ReadProbe(std::int64_t bytes);
  ReadProbe(ReadProbe&&) noexcept;
  ~ReadProbe();

  /// Bytes that a pass reads.
  [[nodiscard]] std::int64_t bytes() const noexcept;
  /// Reads all of it `passes` times.
  void read(std::int64_t passes = 1);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gossamer
