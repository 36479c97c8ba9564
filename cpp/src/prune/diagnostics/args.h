#pragma once

// What the kernels of gossamer/prune/diagnostics.h take.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::detail {

/// counts[j/run] += elements of x [rows, cols] that are neither ±0 nor false.
struct CountNonzeroArgs {
  const void* x;
  DType type;
  std::int64_t stride;
  std::int64_t rows, cols;
  std::int64_t run;
  std::int64_t* counts;
};

/// fired |= mask, both with nonzero bytes for true; *count = how many are true then.
struct CoverArgs {
  std::uint8_t* fired;
  const std::uint8_t* mask;
  std::int64_t size;
  std::int64_t* count;
};

/// out[i] = (Σ_k inputs[k][i]) / count for begin ≤ i < end.
struct MeanArgs {
  const void* const* inputs;
  std::int64_t count;
  DType type;
  std::int64_t begin, end;
  void* out;
};

}  // namespace gossamer::detail
