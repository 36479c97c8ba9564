#pragma once

// What the kernels of structured masks take.

#include <cstddef>
#include <cstdint>

#include "gossamer/dtype.h"
#include "gossamer/prune/enums.h"
#include "prune/score/args.h"
#include "simd/types.h"

namespace gossamer::detail {

/// mask = 1 for the n elements of each group of m with the largest score (|score| if `magnitude`),
/// 0 for the others; 0 < n < m, and m < kNmMost for types of 16 bits. Element i of group g in
/// column c of part o has the index o*part + (g*m + i)*step + c, in the score and in the mask. If
/// step = 1, then cols = 1. NaN ranks below all numbers, or above them if `nan_high`.
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

/// The largest m for types of 16 bits: counts up to m are kept in the type of their keys.
inline constexpr std::int64_t kNmMost = 0x7fff;

/// Bytes of scratch: for each of max(m, 32) elements a line of 64 keys of 8 bytes and of 64 bytes
/// of mask, and one vector more.
static constexpr std::int64_t nm_scratch(std::int64_t m) { return 576 * (m < 32 ? 32 : m) + 64; }

/// *violations = the number of groups with more than n nonzero elements; *first = the smallest
/// o*groups*cols + g*cols + c among them, or -1 if there are none. The layout is that of
/// NmMaskArgs. If rest > 0, a last group of `rest` < m elements follows the `groups` whole ones.
struct NmCheckArgs {
  const void* x;
  DType type;
  std::int64_t n, m;
  std::int64_t parts, part;
  std::int64_t groups, step, cols, rest;
  std::int64_t* violations;
  std::int64_t* first;
};

/// In each block of m x m elements, keeps n of each row and of each column: those with the largest
/// sum (of several such choices the lexicographically first), or a greedy choice if `greedy`. Block
/// b is columns [b*m, (b+1)*m) of m rows that are `stride` elements apart, in the score and in the
/// mask. 0 < n < m ≤ 64; NaN counts as -infinity.
struct TransposableArgs {
  const void* score;
  DType type;
  bool magnitude;
  std::int64_t n, m;
  std::int64_t blocks, stride;
  std::uint8_t* mask;
  bool greedy;
  std::byte*
      scratch;  // kTransposableScratch bytes, aligned for double; threads may have small stacks
};

/// Three matrices of 64 x 64 doubles and two orders of their elements.
inline constexpr std::int64_t kTransposableScratch = 64 * 64 * (3 * 8 + 2 * 2);

/// In each block of v x m elements, chooses the four columns in which the n largest elements of
/// each row have the largest sum (of several such choices the lexicographically first), or chooses
/// them one after the other if `greedy`, and keeps these n of each row. The layout is that of
/// TransposableArgs. 0 < n ≤ 4 ≤ m ≤ 64.
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

/// Doubles of scratch for a row: 64 columns, the four chosen ones, and the bits of what is kept.
inline constexpr std::int64_t kVnmScratch = 70;

/// out[j] = the reduction of columns [j*width, (j+1)*width) of `rows` rows, computed in Real
/// (double for f64, else float): first down each column, then of the columns c and c+h for h = P/2,
/// P/4, …, 1, where P is the smallest power of two that is at least `width`.
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
