#pragma once

// What the kernels of gossamer/graph.h take.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::detail {

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

/// out[i] = the sum, or the largest, of the values of row i in [row0, row1); Real: double where the
/// values are, else float.
struct RowReduceArgs {
  bool wide;
  const void* indptr;
  const void* values;
  DType type;
  std::int64_t row0, row1;
  bool largest;
  void* out;
};

/// out[p] = rows[i]·values[p]·cols[j] for the entries p = (i, j) of rows [row0, row1); what is null
/// is 1. Factors are Real.
struct ScaleEntriesArgs {
  bool wide;
  const void* indptr;
  const void* indices;
  const void* values;
  DType type;  // of values and out
  std::int64_t row0, row1;
  const void* rows;
  const void* cols;
  void* out;
};

}  // namespace gossamer::detail
