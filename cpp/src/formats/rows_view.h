#pragma once

// A borrowed sparse matrix in row order. Products and packing read CSR matrices, the blocks of BSR
// matrices as if they were entries, and the "rows" layout of packed ones through it.

#include <cstdint>

#include "base/index.h"
#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "simd/types.h"

namespace gossamer::detail {

struct RowsView {
  IndexKind kind;
  const void* indptr;
  const void* indices;
  const void* values;
  DType value_type;
  std::int64_t rows, cols, nnz;

  [[nodiscard]] RowPointers pointers() const noexcept {
    return {.data = indptr, .wide = kind == IndexKind::i64_i64};
  }
  /// indptr[i], whatever its type.
  [[nodiscard]] std::int64_t pointer(std::int64_t i) const noexcept { return pointers()[i]; }
  [[nodiscard]] std::int64_t index(std::int64_t p) const noexcept {
    switch (kind) {
      case IndexKind::i32_u16:
        return static_cast<const std::uint16_t*>(indices)[p];
      case IndexKind::i32_i32:
        return static_cast<const std::int32_t*>(indices)[p];
      case IndexKind::i64_i64:
        return static_cast<const std::int64_t*>(indices)[p];
    }
    return 0;
  }
};

inline IndexKind index_kind(DType index) noexcept {
  return index == DType::i64 ? IndexKind::i64_i64 : IndexKind::i32_i32;
}

inline RowsView rows_view(const Csr& a) {
  return {.kind = index_kind(a.index_dtype()),
          .indptr = a.indptr().data,
          .indices = a.indices().data,
          .values = a.values().data,
          .value_type = a.dtype(),
          .rows = a.rows(),
          .cols = a.cols(),
          .nnz = a.nnz()};
}

/// The blocks of a matrix as entries without values.
inline RowsView block_view(const Bsr& a) {
  return {.kind = index_kind(a.index_dtype()),
          .indptr = a.indptr().data,
          .indices = a.indices().data,
          .values = nullptr,
          .value_type = a.dtype(),
          .rows = a.rows() / a.block_rows(),
          .cols = a.cols() / a.block_cols(),
          .nnz = a.nblocks()};
}

}  // namespace gossamer::detail
