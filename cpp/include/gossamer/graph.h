#pragma once

#include <optional>

#include "gossamer/csr.h"
#include "gossamer/tensor.h"

namespace gossamer::graph {

// Measures of graphs, of which a sparse matrix holds the edges.

/// TEDDY's score of each edge of a square matrix, scores [nnz] float32: with d_i the entries of row
/// i and n_i = (1/d_i)·Σ_j d_j^-½ over them, (n_i/d_i)·(n_j/d_j); +infinity for self-loops.
void edge_score(const CsrPattern& a, const TensorView& scores);

/// sums = Σ|values| of each row [R] (axis 1) or column [C] (axis 0), float32, or float64 for
/// float64.
void strength(const Csr& a, int axis, const TensorView& sums);

// The following take several sets of values at once, [..., nnz], for one structure; where values
// may be left out, each entry is 1. Results and factors have the type of sums: float64 for float64
// values, else float32.

/// sums [..., rows] = (Σ of each row)^power. With a negative power, a row whose sum is 0 gets 0:
/// the D^-½ of a graph's normalised adjacency D^-½·A·D^-½.
void row_sum(const CsrPattern& a, const std::optional<TensorView>& values, const TensorView& sums,
             double power = 1.0);

/// out [..., rows] = the largest value of each row, -infinity for a row without entries, NaN for
/// one that has a NaN.
void row_max(const CsrPattern& a, const TensorView& values, const TensorView& out);

/// out [..., nnz] = rows[i]·values[p]·cols[j] for each entry p = (i, j); rows [a.rows()] and cols
/// [a.cols()] are 1 where they are left out. `out` has the type of the values, or of the factors
/// where there are none.
void scale_rows_cols(const CsrPattern& a, const std::optional<TensorView>& values,
                     const std::optional<TensorView>& rows, const std::optional<TensorView>& cols,
                     const TensorView& out);

}  // namespace gossamer::graph
