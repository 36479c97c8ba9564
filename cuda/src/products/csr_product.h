#pragma once

// Products with CSR matrices that have been checked; spmm and linear are made of these.

#include <cstdint>

#include "base/carver.h"
#include "formats/csr/csr_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/kernels/sets.cuh"

namespace gossamer::cuda {

/// out = epilogue(A·B), for any product. `workspace` is aligned to 16 bytes.
void multiply(const CsrView& a, const detail::Product& product, void* workspace, Stream stream);
/// `by_columns`: B is stored by columns, as linear's activations are.
[[nodiscard]] std::int64_t multiply_workspace(const CsrView& a, std::int64_t n, bool by_columns);

/// The same with Aᵀ for A. `by_columns` is of no account for a single column.
void multiply_transposed(const CsrView& a, const detail::Product& product, void* workspace,
                         Stream stream);
[[nodiscard]] std::int64_t multiply_transposed_workspace(const CsrView& a, std::int64_t n,
                                                         bool by_columns);

/// Rows longer than this are cut into chunks; 0 if no row can be that long. `a.rows` are those of
/// one of `stacks` matrices one below the other, `a.nnz` the entries of all.
[[nodiscard]] std::int64_t row_cut(const CsrView& a, std::int64_t stacks = 1);

/// Several sets of operands: `a` has the rows of one matrix, and the product is that of the first.
struct RowSets {
  std::int64_t count;
  Sets sets;
  SetSteps b, out;
};

/// For a B stored by rows. If `sums` [m, ld_sums] is not null, it receives the sums, and out is not
/// written. `partial` has room for partial_sums(a)·n sums, of several sets for each of up to 65535.
void multiply_rows(const CsrView& a, const detail::Product& product, void* sums,
                   std::int64_t ld_sums, void* partial, Stream stream,
                   const RowSets* sets = nullptr);
[[nodiscard]] std::int64_t partial_sums(const CsrView& a, std::int64_t stacks = 1);

/// For B of any layout; fast for at most kThinColumns columns. Takes no workspace. For 32 entries
/// and four columns of half precision it reads 22 lines of L1; with a transposed B it would be 8.
inline constexpr std::int64_t kThinColumns = 2;
void multiply_thin(const CsrView& a, const detail::Product& product, Stream stream);

/// For a B stored by columns.
void multiply_columns(const CsrView& a, const detail::Product& product, void* workspace,
                      Stream stream);
[[nodiscard]] std::int64_t multiply_columns_workspace(const CsrView& a, std::int64_t n);

}  // namespace gossamer::cuda
