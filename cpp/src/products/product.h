#pragma once

// Products of a sparse A [m, k] with a dense B [k, n]: the choice of layout and kernel, tiles, and
// the partition over threads. spmm and linear differ only in how B and the result lie in memory.

#include <cstdint>
#include <vector>

#include "base/args.h"
#include "base/pool.h"
#include "formats/packed/packed_impl.h"
#include "gossamer/detail/check.h"

namespace gossamer::detail {

/// out = epilogue(A·B).
void multiply(const RowsView& a, const Product& product);
void multiply(const Packed::Impl& a, const Product& product);

/// out = epilogue(Aᵀ·B), A [k, m].
void multiply_transposed(const Csr& matrix, const Product& product);

/// Cuts [0, rows) into about `pieces` ranges of equal entries, at multiples of `multiple` rows:
/// bounds [pieces+1]. An empty row counts as a few entries.
std::vector<std::int64_t> cut_rows(const RowsView& a, std::int64_t pieces, std::int64_t multiple);

/// For each row and each of `ranges` column ranges of width `width`, where the row's entries of
/// that range begin: [ranges+1][rows], of the row pointers' type, so that range q of row i is
/// [cuts[q][i], cuts[q+1][i]).
void cut_columns(const RowsView& a, std::int64_t width, std::int64_t ranges, void* cuts);

/// Bytes of one row pointer.
inline std::int64_t pointer_size(IndexKind kind) noexcept {
  return kind == IndexKind::i64_i64 ? 8 : 4;
}

}  // namespace gossamer::detail
