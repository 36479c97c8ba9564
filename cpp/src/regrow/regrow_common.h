#pragma once

// What drop-and-grow of masks and of compressed rows share.

#include <cstdint>
#include <cstring>

#include "base/numbers.h"
#include "gossamer/detail/regrow_checks.h"

namespace gossamer::detail {

/// The bits of x in a floating type, in the low bytes.
inline std::uint64_t encode(double x, DType dtype) {
  std::uint64_t bits = 0;
  if (dtype == DType::f64) {
    std::memcpy(&bits, &x, 8);
    return bits;
  }
  const auto single = static_cast<float>(x);
  narrow(&single, 1, &bits, dtype);
  return bits;
}

}  // namespace gossamer::detail
