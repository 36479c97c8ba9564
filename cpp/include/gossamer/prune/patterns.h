#pragma once

#include <cstdint>
#include <optional>

#include "gossamer/prune/score.h"
#include "gossamer/prune/select.h"
#include "gossamer/tensor.h"

namespace gossamer::prune {

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
  std::int64_t count = 0;
  /// The first group that has too many, in row-major order of the groups.
  std::optional<std::int64_t> first = {};
};

/// Counts the groups with more than n nonzero elements in x, of any type.
[[nodiscard]] NmViolations check_nm(const TensorView& x, std::int64_t n, std::int64_t m,
                                    int axis = -1);

/// exact: the largest sum of scores, the first such mask in lexicographic order. greedy: entries
/// from the largest on.
enum class MaskMethod : std::uint8_t { exact, greedy };

/// Keeps n of each row and of each column of every m x m block of score [R, C], so that the
/// transpose has the pattern too; m ≤ 64, R and C multiples of m. Scores count in units of 2^-38
/// or less of the largest of their block, 2^-20 beside infinities; NaN as -infinity.
void nm_mask_transposable(const Score& score, std::int64_t n, std::int64_t m, MaskMethod method,
                          const TensorView& out);

/// Keeps, in every v x m block of score [R, C], the four columns that hold the most of what n of
/// four in each row can keep, and those n: V:N:M. 4 ≤ m ≤ 64; R is a multiple of v, C of m. greedy
/// finds the columns one by one. NaN is the last; infinities count as 2^110 (2^1000 in float64) in
/// sums.
void vnm_mask(const Score& score, std::int64_t v, std::int64_t n, std::int64_t m, MaskMethod method,
              const TensorView& out);

/// A block of a matrix; those at the right and lower edges may be partial.
struct BlockShape {
  std::int64_t rows, cols;
};

/// out [⌈R/rows⌉, ⌈C/cols⌉], of dtype_of(score), = the reduction of each block of score [R, C]:
/// mean x, max x, Σ|x| or √Σx² of the entries that exist. Entries are added down the columns, then
/// across them in a tree, the same on every device. NaN spreads.
void block_pool(const Score& score, BlockShape block, Reduce reduce, const TensorView& out);

/// out [R, C] = mask of its block, mask [⌈R/rows⌉, ⌈C/cols⌉] and out bool or uint8.
void expand_blocks(const TensorView& mask, BlockShape block, const TensorView& out);

/// swap exchanges two columns at a time; stripe8 also re-deals the 8 columns of each two groups (35
/// ways), stripe12 the 12 of three (5775 ways); both for m = 4.
enum class PermutationMethod : std::uint8_t { swap, stripe8, stripe12 };

struct PermutationOptions {
  PermutationMethod method = PermutationMethod::swap;
  /// How often a local optimum is left by random exchanges; the better result is kept.
  std::int64_t escapes = 100;
  std::uint64_t seed = 0;
};

/// perm [C] of int32: an order of the columns of score [R, C], C a multiple of m, in which n:m
/// along the rows keeps a large sum, which is returned: never less than in the given order. NaN
/// counts as 0. Columns beyond 512 are searched in parts of at most 512.
double permutation_search(const Score& score, std::int64_t n, std::int64_t m,
                          const PermutationOptions& options, const TensorView& perm);

}  // namespace gossamer::prune
