#pragma once

// What the kernels of structured masks take.

#include <cstddef>
#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::kernels {

/// mask = 1 for the n first of each group of m by value (|value| where `magnitude`), 0 < n < m.
/// Element i of group g, column c of part o is at o*part + (g*m + i)*step + c; cols is 1 where
/// step is. The mask lies as the score does. NaN is the last, or the first where `nan_high`.
struct NmMaskArgs {
  const void* score;
  DType type;
  bool magnitude;
  std::int64_t n, m;
  bool tie_high, nan_high;
  std::int64_t parts, part;
  std::int64_t groups, step, cols;
  std::uint8_t* mask;
  std::byte* scratch;  // [m * kNmScratch]
};

/// Two of the widest vectors.
inline constexpr std::int64_t kNmScratch = 128;

/// *found += the number of NaN.
struct CountNanArgs {
  const void* x;
  DType type;
  std::int64_t count;
  std::int64_t* found;
};

/// *violations = the number of groups with more than n nonzero elements, *first the smallest
/// o*groups*cols + g*cols + c of them, else -1. Laid out as for NmMaskArgs, a last group of
/// `rest` < m elements counted among the groups.
struct NmCheckArgs {
  const void* x;
  DType type;
  std::int64_t n, m;
  std::int64_t parts, part;
  std::int64_t groups, step, cols, rest;
  std::int64_t* violations;
  std::int64_t* first;
};

}  // namespace gossamer::kernels
