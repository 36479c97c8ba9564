#pragma once

#include <cstdint>
#include <span>

#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/tensor.h"

namespace gossamer {

// Measures of graphs and of sparse patterns.

/// TEDDY's score of each edge of a square matrix, scores [nnz] float32: with d_i the entries of row
/// i and n_i = (1/d_i)·Σ_j d_j^-½ over them, (n_i/d_i)·(n_j/d_j); +infinity for self-loops.
void edge_score(const Csr& a, const TensorView& scores);

/// sums = Σ|values| of each row [R] (axis 1) or column [C] (axis 0), float32, or float64 for
/// float64.
void strength(const Csr& a, int axis, const TensorView& sums);

/// values [nnz] = the mean of the values of matrices of one pattern and type; ValueError otherwise.
void mean_same_pattern(std::span<const Csr> matrices, const TensorView& values);

/// fired |= mask, bool or uint8, of one shape and contiguous; returns how many have fired.
std::int64_t coverage_or_(const TensorView& fired, const TensorView& mask);

/// counts[i, j] = elements of x [R, C] (floating, bool or uint8; rows may be strided) other than ±0
/// and false in the block of `rows` x `cols` at (i·rows, j·cols); counts [⌈R/rows⌉, ⌈C/cols⌉]
/// int64.
void count_nonzero(const TensorView& x, std::int64_t rows, std::int64_t cols,
                   const TensorView& counts);

/// The same of what a sparse matrix stands for: entries that are stored as zeros do not count.
void count_nonzero(const Csr& a, std::int64_t rows, std::int64_t cols, const TensorView& counts);
void count_nonzero(const Bsr& a, std::int64_t rows, std::int64_t cols, const TensorView& counts);

}  // namespace gossamer
