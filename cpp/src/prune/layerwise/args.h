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

/// OBS on the columns i of w Real [rows, cols], in increasing order. A weight that the mask drops
/// becomes 0 and has err(r, i) = w/u(i, i); err(r, i) = 0 for a weight that is kept. The columns
/// j > i of the row change by -err(r, i)·u(i, j). If m > 0, the mask is an output: when a group of
/// m columns is reached, the n with the largest (w/u(i, i))² are kept; of equal ones the first, and
/// NaN ranks lowest.
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
/// In a row, d = w·mean, and e = Σ d over the dropped weights. A step has two halves. It grows, of
/// the weights dropped at the start with sign(e)·d > 0, the one with the largest |d|·scale. It
/// drops, of those kept at the start (with sign(e)·d < 0 if `same_sign`; in the same group of
/// columns if `group` > 0), the one with the smallest |w|·norm. A step that changes the sign of e
/// is undone and is the last; so is a step after which |e| ≤ tolerance, and step number `steps`.
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
