#pragma once

// What the kernels of structured masks take.

#include <cstddef>
#include <cstdint>

#include "gossamer/dtype.h"
#include "gossamer/prune/enums.h"
#include "prune/score/args.h"
#include "simd/types.h"

namespace gossamer::detail {

/// mask = 1 for the n first of each group of m by value (|value| where `magnitude`), 0 < n < m, and
/// m < kNmMost for types of 16 bits. Element i of group g, column c of part o is at
/// o*part + (g*m + i)*step + c; cols is 1 where step is. The mask lies as the score does. NaN is
/// the last, or the first where `nan_high`.
struct NmMaskArgs {
  const void* score;               // not where `evaluated`
  const ScoreTileArgs* evaluated;  // from element 0 on, or null
  const float* factor;             // may be null
  std::int64_t column, columns;
  DType type;
  bool magnitude;
  std::int64_t n, m;
  bool tie_high, nan_high;
  std::int64_t parts, part;
  std::int64_t groups, step, cols;
  std::uint8_t* mask;
  std::byte* scratch;  // [nm_scratch(m)]
};

/// Counts up to m fit keys of 16 bits.
inline constexpr std::int64_t kNmMost = 0x7fff;

/// A line of keys and of mask for each element, or for 32, and one more vector.
constexpr std::int64_t nm_scratch(std::int64_t m) { return 576 * (m < 32 ? 32 : m) + 64; }

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

/// For each block of m x m, mask = n of each row and column: of the largest sum (the first such in
/// lexicographic order, columns kept first), or taken greedily. Block b is at b*m of m rows of
/// `stride`; the mask lies as the score does. 0 < n < m ≤ 64; NaN counts as -infinity.
struct TransposableArgs {
  const void* score;
  DType type;
  bool magnitude;
  std::int64_t n, m;
  std::int64_t blocks, stride;
  std::uint8_t* mask;
  bool greedy;
};

/// For each block of v x m, the four columns in which the n largest of each row have the largest
/// sum (the first such in lexicographic order), or are found one by one; mask = those n of each
/// row. Laid out as for TransposableArgs. 0 < n ≤ 4 ≤ m ≤ 64.
struct VnmMaskArgs {
  const void* score;
  DType type;
  bool magnitude;
  std::int64_t v, n, m;
  std::int64_t blocks, stride;
  std::uint8_t* mask;
  bool greedy;
  std::byte* scratch;  // kVnmScratch * (v rounded up to 16) doubles
};

/// 64 columns, four more, and the bits of those that are kept.
inline constexpr std::int64_t kVnmScratch = 70;

/// out[j] = the reduction of columns [j*width, (j+1)*width) of `rows` rows, in Real: down each
/// column first, then across columns c and c+h for h = P/2, P/4, …, 1, P the power of two from
/// width up.
struct BlockPoolArgs {
  const void* score;
  DType type;
  bool magnitude;
  prune::Reduce reduce;
  std::int64_t rows, cols, width;
  void* out;
  std::byte* scratch;  // (cols + 2*width) Real
};

// Columns of magnitudes for the search of permutations: column c is x[c*ld + row], zeros after the
// last row; ld is a multiple of 16. Sums over rows run in 16 lanes, 256 rows at a time.

/// For each group of m columns `member`: *total = Σ of the n largest of each row. For each
/// member: next[i*ld + row] = the n-th largest of the others, sum[i] = Σ of their n-1 largest.
struct PermutationGroupArgs {
  const float* x;
  std::int64_t ld;
  const std::int32_t* member;
  int n, m;
  float* next;
  double* sum;
  double* total;
};

/// out[i*stride + c] = Σ_row max(next[i*ld + row], x[c*ld + row]) for i < count, c < cols.
struct PermutationPairsArgs {
  const float* x;
  std::int64_t ld, cols;
  const float* next;
  std::int64_t count;
  double* out;
  std::int64_t stride;
};

/// out = Σ of the n largest of each row for each 4 of `count` columns, in lexicographic order.
struct PermutationSubsetsArgs {
  const float* x;
  std::int64_t ld;
  const std::int32_t* column;
  int count, n;
  double* out;
};

}  // namespace gossamer::detail
