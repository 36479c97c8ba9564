#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "gossamer/detail/check.h"
#include "gossamer/prune/patterns.h"

// The search of column orders, for the library's backends: the steps are the same, and a backend
// adds up what they compare. Sums run over the rows in 16 lanes, 256 rows at a time, so that their
// bits are the same everywhere.

namespace gossamer::detail {

/// Scores are held as float, infinities as this.
inline constexpr float kLargestScore = 1e30F;
/// Rows are filled up with zeros to a multiple of these.
inline constexpr std::int64_t kPermutationRows = 16, kPermutationChunk = 256;

/// Columns of groups that are searched together, numbered from 0 on.
struct PermutationPart {
  std::int64_t rows, cols;  // rows with those of zeros
  int n, m;
  std::uint64_t seed, number;
};

struct PermutationSums {
  /// Of each of the groups `changed` of `order` (position -> column): total[g] = Σ of the n largest
  /// of each row; of each position p of it, with `next` the n-th largest of the others of the
  /// group, sum[p] = Σ of their n-1 largest, and pairs[p*cols + c] = Σ max(next, column c).
  std::function<void(std::span<const std::int32_t> order, std::span<const std::int64_t> changed,
                     double* sum, double* total, double* pairs)>
      refresh;
  /// out = Σ of the n largest of each row for each 4 of `count` columns, in lexicographic order;
  /// `columns` lists several times `count` of them. m is 4, `count` is 8 or 12.
  std::function<void(std::span<const std::int32_t> columns, int count, double* out)> subsets;
};

/// Sets of 4 of `count` columns.
[[nodiscard]] constexpr std::int64_t subsets_of(std::int64_t count) noexcept {
  return count * (count - 1) * (count - 2) * (count - 3) / 24;
}

/// The order that a search finds: position -> column.
[[nodiscard]] std::vector<std::int32_t> search_order(const PermutationPart& part,
                                                     const PermutationSums& sums,
                                                     const prune::PermutationOptions& options);

/// Where the parts of a matrix begin, and its end. Each has whole groups.
[[nodiscard]] std::vector<std::int64_t> permutation_parts(std::int64_t cols, std::int64_t m);

/// Which column is in each place of the parts: groups go to them in turn.
[[nodiscard]] std::vector<std::int32_t> dealt_columns(std::int64_t cols, std::int64_t m);

/// Scores far from 1 are searched as multiples of this power of two: float holds those, and sums of
/// many of them. `largest` is the largest magnitude of a finite one.
[[nodiscard]] int permutation_exponent(double largest);

/// What is kept of all groups, times that power of two.
[[nodiscard]] double permutation_total(std::span<const double> groups, int exponent);

void check_permutation(const Checker& check, const prune::Score& score, std::int64_t n,
                       std::int64_t m, const prune::PermutationOptions& options,
                       const TensorView& perm);

}  // namespace gossamer::detail
