#pragma once

// What the backends ask of the operations of gossamer/prune/diagnostics.h that they share. A
// program that calls the operations needs none of this.

#include <cstdint>
#include <span>

#include "gossamer/detail/check.h"
#include "gossamer/prune/diagnostics.h"

namespace gossamer::detail {

/// A matrix cut into down x across blocks of rows x cols elements, no larger than the matrix.
struct Grid {
  std::int64_t rows, cols, down, across;
};

/// The operands of prune::nnz_stats; return where the counted blocks lie.
Grid check_nnz_stats(const Checker& check, const TensorView& x, const prune::CountBlock& block,
                     const TensorView& counts);
Grid check_nnz_stats(const Checker& check, const Csr& a, const prune::CountBlock& block,
                     const TensorView& counts);
Grid check_nnz_stats(const Checker& check, const Bsr& a, const prune::CountBlock& block,
                     const TensorView& counts);

void check_coverage(const Checker& check, const TensorView& fired, const TensorView& mask);

/// Matrices of one shape, type and number of entries; whether their patterns are equal is to be
/// seen: `check_pattern` says that one is not.
void check_mean(const Checker& check, std::span<const Csr> matrices, const TensorView& values);
void check_pattern(const Checker& check, std::size_t matrix, bool equal);

}  // namespace gossamer::detail
