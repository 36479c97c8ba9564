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

}  // namespace gossamer::detail
