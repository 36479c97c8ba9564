#pragma once

// Ranges of columns: a product takes A range by range where a tile of B, or of the sums, would
// otherwise not stay in cache.

#include <cstdint>

#include "formats/rows_view.h"

namespace gossamer::detail {

/// Bytes of one row pointer.
inline std::int64_t pointer_size(IndexKind kind) noexcept {
  return kind == IndexKind::i64_i64 ? 8 : 4;
}

/// For each row and each of `ranges` column ranges of width `width`, where the row's entries of
/// that range begin: [ranges+1][rows], of the row pointers' type, so that range q of row i is
/// [cuts[q][i], cuts[q+1][i]).
void cut_columns(const RowsView& a, std::int64_t width, std::int64_t ranges, void* cuts);

}  // namespace gossamer::detail
