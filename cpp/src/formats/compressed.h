#pragma once

// What the compressed formats, CSR and BSR, check of their arrays, and small things that their
// conversions share.

#include <cstdint>
#include <optional>

#include "gossamer/detail/check.h"
#include "gossamer/tensor.h"

namespace gossamer::detail {

/// indptr and indices are one-dimensional, contiguous, of one index type and on one device, and
/// the type can count to the matrix's extents.
void check_index_arrays(const Checker& check, const TensorView& indptr, const TensorView& indices,
                        std::int64_t rows, std::int64_t cols);

/// A floating array of `rank` axes, contiguous, on `device`, with `entries` along the first.
void check_values(const Checker& check, const Argument& values, int rank, Device device,
                  std::int64_t entries);

/// A side of a compressed matrix, in entries or blocks, and the words for it in messages.
struct Side {
  std::int64_t extent;
  const char* text;
};

/// indptr has the length that the rows ask for.
void check_row_count(const Checker& check, const TensorView& indptr, Side rows);

/// That, too; unless `trusted` or out of reach, it starts at 0,
/// never falls and ends at the number of indices, which are in range and strictly increase within
/// a row.
void check_structure(const Checker& check, const TensorView& indptr, const TensorView& indices,
                     Side rows, Side cols, bool trusted);

/// Throws unless indptr starts at 0, never falls and ends at `nnz`.
void check_indptr(const Checker& check, const TensorView& indptr, std::int64_t rows,
                  std::int64_t nnz);

/// Fresh pages under a large output otherwise take longer to come than the conversion.
void use_huge_pages(const TensorView& out);

/// Elements from one row of a matrix to the next; 0 where there is no next one.
inline std::int64_t row_stride(const TensorView& matrix) {
  return matrix.shape[0] > 1 ? matrix.strides[0] : 0;
}

inline const std::uint8_t* mask_data(const std::optional<TensorView>& mask) {
  return mask ? static_cast<const std::uint8_t*>(mask->data) : nullptr;
}

}  // namespace gossamer::detail
