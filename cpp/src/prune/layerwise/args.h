#pragma once

// What the kernels of gossamer/prune/layerwise.h take. "Real" is double where `f64`, else float.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::detail {

/// Sums of x [rows, cols] by column: sum = Σx, sumsq = Σx², m2 = Σ(x - mean)².
struct ColumnStatsArgs {
  const void* x;
  DType type;
  std::int64_t stride;
  std::int64_t rows, cols;
  double* sum;
  double* sumsq;
  double* m2;
};

/// OBS over the columns [0, cols) of w Real [rows, cols], in order: a weight that the mask drops
/// becomes 0 and err(r, i) = w/u(i, i), else err = 0; columns j > i of its row change by
/// -err·u(i, j). With m > 0 the mask is written: the n of each m columns with the largest
/// (w/u(i, i))² when the group is reached, of equals the first, NaN last.
struct ObsBlockArgs {
  void* w;
  std::int64_t ldw;
  std::int64_t rows, cols;
  const void* u;
  std::int64_t ldu;
  std::uint8_t* mask;
  std::int64_t ldmask;
  int n, m;
  void* err;
  std::int64_t lderr;
  bool f64;
};

/// scores(r, j) = (w(r, j)/u(j, j))², Real.
struct ObsScoreArgs {
  const void* w;
  std::int64_t ldw;
  std::int64_t rows, cols;
  const void* u;
  std::int64_t ldu;
  void* scores;
  std::int64_t ldscores;
  bool f64;
};

/// c(r, j) -= Σ_d err(r, d)·u(d, j) over d < depth; all Real.
struct ObsTailArgs {
  void* c;
  std::int64_t ldc;
  std::int64_t rows, cols, depth;
  const void* err;
  std::int64_t lderr;
  const void* u;
  std::int64_t ldu;
  void* panel;  // Real [depth, kObsPanel], scratch
  bool f64;
};

/// Columns of a panel, at most.
inline constexpr std::int64_t kObsPanel = 64;

/// DSnoT on the rows of w [rows, cols]; mean, scale and norm are Real [cols].
/// Of a row: d = w·mean, e = Σ d over the dropped. A step grows the dropped weight with sign(e)·d >
/// 0 and the largest |d|·scale and drops the kept one with the smallest |w|·norm that, with
/// `same_sign`, has sign(e)·d < 0, each of the weights that the mask had so before; with `group` >
/// 0, in the grown one's group of columns. It is undone, and the row done, where e changes its
/// sign; the row is done where |e| ≤ tolerance, or after `steps`.
struct DsnotArgs {
  const void* w;
  DType type;
  std::int64_t ldw;
  std::uint8_t* mask;
  std::int64_t ldmask;
  std::int64_t rows, cols;
  const void* mean;
  const void* scale;
  const void* norm;
  double tolerance;
  std::int64_t steps;
  std::int64_t group;
  bool same_sign;
  void* scratch;  // Real [3, cols]
  bool f64;
};

}  // namespace gossamer::detail
