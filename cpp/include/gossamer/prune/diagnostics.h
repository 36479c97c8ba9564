#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/tensor.h"

namespace gossamer::prune {

// What a pruned layer holds and has held: counts, coverage, and the mean of equal patterns.

/// The blocks of a matrix that are counted. A side that is not given is the matrix's, and the
/// counts lack its axis: {1, none} counts by rows, {none, none} all.
struct CountBlock {
  std::optional<std::int64_t> rows = {}, cols = {};
};

/// counts[i, j] = elements of x [R, C] (floating, bool or uint8; rows may be strided) other than ±0
/// and false in the block of rows x cols at (i·rows, j·cols); counts [⌈R/rows⌉, ⌈C/cols⌉] int64.
void nnz_stats(const TensorView& x, const CountBlock& block, const TensorView& counts);

/// The same of what a sparse matrix stands for: entries that are stored as zeros do not count.
void nnz_stats(const Csr& a, const CountBlock& block, const TensorView& counts);
void nnz_stats(const Bsr& a, const CountBlock& block, const TensorView& counts);

/// fired |= mask, bool or uint8, of one shape and contiguous; returns how many have fired.
std::int64_t coverage_or_(const TensorView& fired, const TensorView& mask);

/// values [nnz] = the mean of the values of matrices of one pattern and type; ValueError otherwise.
void mean_same_pattern(std::span<const Csr> matrices, const TensorView& values);

}  // namespace gossamer::prune
