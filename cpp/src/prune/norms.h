#pragma once

// Euclidean norms of groups of a matrix.

#include <cstdint>

#include "gossamer/detail/update_checks.h"

namespace gossamer::detail {

/// Elements of short rows that one task takes.
inline constexpr std::int64_t kGroupWork = 1 << 14;

/// out [count] = Σx² of each group, in double.
void group_squares(const Grouped& w, double* out);

/// out [count] = √Σx² of each group, in double. Exact to rounding for all numbers: a group whose
/// squares leave the range of double is scaled.
void group_norms(const Grouped& w, double* out);

}  // namespace gossamer::detail
