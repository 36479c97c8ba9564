#pragma once

#include <cstdint>

#include "gossamer/score.h"
#include "gossamer/select.h"
#include "gossamer/tensor.h"

namespace gossamer {

// Masks (bool or uint8, of the score's shape, contiguous) with a structure. Each gives the same
// bits at every ISA level and for every number of threads.

/// What becomes of the elements at the end of the axis that fill no group: refused, all kept, or
/// grouped with elements that are never kept.
enum class Tail : std::uint8_t { error, keep, pad };

struct NmOptions {
  /// The axis that groups lie along; negative from the end.
  int axis = -1;
  Tie tie = Tie::low;
  Nan nan = Nan::lowest;
  Tail tail = Tail::error;
};

/// Keeps the n largest of every m consecutive elements along an axis.
void nm_mask(const Score& score, std::int64_t n, std::int64_t m, const NmOptions& options,
             const TensorView& out);

struct NmViolations {
  std::int64_t count;
  /// The first group that has too many, in row-major order of the groups; -1 where none has.
  std::int64_t first;
};

/// Counts the groups with more than n nonzero elements in x, of any type.
[[nodiscard]] NmViolations check_nm(const TensorView& x, std::int64_t n, std::int64_t m,
                                    int axis = -1);

}  // namespace gossamer
