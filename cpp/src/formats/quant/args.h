#pragma once

// What the kernels of group-quantised matrices take. "Real" is the type that sums are kept in:
// double where `f64`, else float.

#include <cstdint>

namespace gossamer::detail {

/// Groups of codes, one after the other.
struct QuantGroups {
  const std::uint8_t* codes;
  const std::uint16_t* scales;  // float16
  const std::uint8_t* zeros;
  int group, bits;
};

/// out[q*group + j] = (code(p, j) − zeros[p])·scales[p] for the groups p < count, q = places[p], or
/// p where there are none; out is Real.
struct DequantiseArgs {
  QuantGroups groups;
  const std::uint16_t* places;  // may be null
  std::int64_t count;
  void* out;
  bool f64;
};

}  // namespace gossamer::detail
