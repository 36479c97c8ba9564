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

/// out[q*group + j] = (code(r, j) − zeros[r])·scales[r] for p < count, q = places[p], or p where
/// there are none, and the groups r = order[p], or p where there is none; out is Real.
struct DequantiseArgs {
  QuantGroups groups;
  const std::int32_t* order;    // may be null
  const std::uint16_t* places;  // may be null
  std::int64_t count;
  void* out;
  bool f64;
};

}  // namespace gossamer::detail
