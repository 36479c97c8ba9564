#pragma once

#include <cstdint>

namespace gossamer {

// The limits of this machine, as the kernels of the chosen ISA level meet them on num_threads()
// threads: the best of the samples taken in about `seconds`. For reports; no operation asks.

/// Bytes per second read when each thread streams over its own `bytes` again and again (rounded up
/// to a multiple of 4 KiB). Throws ValueError unless bytes > 0 and seconds > 0.
[[nodiscard]] double read_bandwidth(std::int64_t bytes, double seconds);

/// float32 operations per second of multiply-adds on registers. Throws ValueError unless seconds >
/// 0.
[[nodiscard]] double fma_peak(double seconds);

}  // namespace gossamer
