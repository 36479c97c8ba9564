#pragma once

// What the kernels of gossamer/layerwise.h, proximal.h and graph.h take. "Real" is double where
// `f64`, else float.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::kernels {

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

enum class Update : std::uint8_t {
  soft,    // x = sign(x)·max(|x| - a, 0)
  shrink,  // x = mask ? x : a·x; 0 where a is 0
  decay,   // x = mask ? x : x + a·other
};

struct UpdateArgs {
  Update what;
  void* x;
  DType type;
  std::int64_t stride;
  const void* other;  // of x's type, or null
  std::int64_t other_stride;
  const std::uint8_t* mask;  // may be null
  std::int64_t mask_stride;
  std::int64_t rows, cols;
  double a;
};

/// out[g] = Σ of x² (or |x|) over the g-th `group` columns of the row, row by row.
struct GroupSumArgs {
  const void* x;
  DType type;
  std::int64_t stride;
  std::int64_t rows, cols;
  std::int64_t group;  // divides cols
  bool squares;
  double* out;  // [rows, cols/group]
};

/// x(r, j) *= factors[j] where group is 0, else factors[r*(cols/group) + j/group]; 0 gives 0.
struct GroupScaleArgs {
  void* x;
  DType type;
  std::int64_t stride;
  std::int64_t rows, cols;
  std::int64_t group;
  const void* factors;  // Real
};

/// out[i] = (Σ_k inputs[k][i]) / count for begin ≤ i < end.
struct MeanArgs {
  const void* const* inputs;
  std::int64_t count;
  DType type;
  std::int64_t begin, end;
  void* out;
};

/// counts[j/run] += elements of x [rows, cols] that are neither ±0 nor false.
struct CountNonzeroArgs {
  const void* x;
  DType type;
  std::int64_t stride;
  std::int64_t rows, cols;
  std::int64_t run;
  std::int64_t* counts;
};

/// fired |= mask, both with nonzero bytes for true; *count = how many are true then.
struct CoverArgs {
  std::uint8_t* fired;
  const std::uint8_t* mask;
  std::int64_t size;
  std::int64_t* count;
};

/// For rows [row0, row1) of a graph's matrix, d = entries of a row. With `scores` null, near[i] =
/// (Σ_j d_j^-½) / d_i² over the row's columns j, 0 where the row is empty. Else scores[p] =
/// near[i]·near[j] for each entry p = (i, j), and +infinity where i = j.
struct EdgeScoreArgs {
  bool wide;
  const void* indptr;
  const void* indices;
  std::int64_t row0, row1;
  const float* root;  // [rows]: d^-½, 0 where d is 0
  float* near;
  float* scores;
};

/// sums[indices[p]] += |values[p]| for begin ≤ p < end.
struct ColumnStrengthArgs {
  bool wide;
  const void* indices;
  const void* values;
  DType type;
  std::int64_t begin, end;
  double* sums;
};

/// sums[i] = Σ|values[p]| over the entries of rows [row0, row1).
struct RowStrengthArgs {
  bool wide;
  const void* indptr;
  const void* values;
  DType type;
  std::int64_t row0, row1;
  double* sums;
};

}  // namespace gossamer::kernels
