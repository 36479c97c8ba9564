#pragma once

#include "gossamer/csr.h"
#include "gossamer/tensor.h"

namespace gossamer::graph {

// Measures of graphs, of which a sparse matrix holds the edges.

/// TEDDY's score of each edge of a square matrix, scores [nnz] float32: with d_i the entries of row
/// i and n_i = (1/d_i)·Σ_j d_j^-½ over them, (n_i/d_i)·(n_j/d_j); +infinity for self-loops.
void edge_score(const Csr& a, const TensorView& scores);

/// sums = Σ|values| of each row [R] (axis 1) or column [C] (axis 0), float32, or float64 for
/// float64.
void strength(const Csr& a, int axis, const TensorView& sums);

}  // namespace gossamer::graph
