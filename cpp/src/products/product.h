#pragma once

// Products of a sparse A [m, k] with a dense B [k, n] whose arguments have been checked. spmm and
// linear differ only in how B and the result lie in memory, which Product tells (detail/check.h).
//
//   spmm.cpp              the public functions of CSR and packed matrices
//   csr.cpp               A·B row by row: CSR, and the "rows" layout of packed matrices
//   csr_transposed.cpp    Aᵀ·B without a transpose where that is faster
//   packed_<layout>.cpp   A·B of a packed layout
//   bf16_product.h        A·B of bfloat16 where the machine has pairs or tiles of it
//   bsr.cpp               spmm and linear of BSR
//   nm.cpp                spmm, linear and sampled products of N:M
//   sddmm.cpp, bsr_sddmm.cpp
//   backward.cpp          the gradients of spmm and linear
//   tiles.h               the dense sides: tiles of B in, tiles of sums out through the epilogue
//   column_cuts.h         where the rows of A enter ranges of its columns

#include <cstdint>

#include "formats/rows_view.h"
#include "gossamer/detail/product_checks.h"

namespace gossamer::detail {

// m and n are not 0 here, and the output is prepared (tiles.h).

/// out = epilogue(A·B).
void multiply(const RowsView& a, const Product& product);

/// out = epilogue(Aᵀ·B), A [k, m].
void multiply_transposed(const Csr& matrix, const Product& product);

/// The same as `multiply`, for several columns of B.
void multiply_columns(const RowsView& a, const Product& product);

/// out = epilogue(A·B), or epilogue(Aᵀ·B). Here m and n may be 0.
void multiply(const Bsr& a, const Product& product, bool transpose);
void multiply(const Nm& a, const Product& product, bool transpose);

/// out = a·bᵀ at the pattern, checked as sddmm's arguments are, but that a and b may have the type
/// of sums in place of out's.
void sample(const TensorView& a, const TensorView& b, const Csr& pattern, const TensorView& out,
            bool accumulate);
void sample(const TensorView& a, const TensorView& b, const Bsr& pattern, const TensorView& out,
            bool accumulate);
void sample(const TensorView& a, const TensorView& b, const Nm& pattern, const TensorView& out,
            bool accumulate);

/// About the nanoseconds that one thread takes for a product with `nnz` entries, in row order.
inline double row_cost(std::int64_t nnz, const Product& product) {
  return static_cast<double>(nnz) * (0.3 + 0.05 * static_cast<double>(product.n));
}

}  // namespace gossamer::detail
