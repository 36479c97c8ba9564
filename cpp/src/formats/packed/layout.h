#pragma once

// What the layouts of packed matrices share. A layout is a class in a file of its own in this
// folder; layouts.h lists them and says what each must have.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/buffer.h"
#include "formats/rows_view.h"
#include "gossamer/packed.h"

namespace gossamer::detail {

struct Product;

/// The size of a packed matrix, and the type of the values that it was made of.
struct PackedShape {
  std::int64_t rows, cols, nnz;
  DType dtype;

  /// The share of positions that hold an entry; 0 for an empty matrix.
  [[nodiscard]] double density() const {
    const double area = static_cast<double>(rows) * static_cast<double>(cols);
    return area > 0 ? static_cast<double>(nnz) / area : 0.0;
  }
};

[[nodiscard]] inline PackedShape shape_of(const RowsView& a) {
  return {.rows = a.rows, .cols = a.cols, .nnz = a.nnz, .dtype = a.value_type};
}

/// A matrix in row order that owns its memory: what a layout turns back into.
struct OwnedRows {
  Buffer<std::int64_t> indptr, indices;
  Buffer<std::byte> values;
  DType value_type;  // the source's, or that which sums are kept in
  PackedShape shape;

  /// Uninitialised memory for so many entries.
  OwnedRows(const PackedShape& shape_, DType value_type_);
  [[nodiscard]] RowsView view() const;
  [[nodiscard]] OwnedRows transposed() const;
};

/// The entries of a layout in row order. `for_each` calls visit(row, column, position of the value)
/// for each of them, twice, with ascending columns within a row; `values` are the layout's.
template <class ForEach>
OwnedRows collect_rows(const PackedShape& shape, DType value_type, const std::byte* values,
                       ForEach&& for_each) {
  OwnedRows rows(shape, value_type);
  const std::int64_t size = size_of(value_type);
  std::int64_t* indptr = rows.indptr.data();
  std::fill_n(indptr, shape.rows + 1, std::int64_t{0});
  // Counts are kept two rows ahead, so that placing the entries moves each row's pointer to where
  // the row begins.
  for_each([&](std::int64_t row, std::int64_t, std::int64_t) {
    if (row + 2 <= shape.rows) ++indptr[row + 2];
  });
  for (std::int64_t i = 1; i <= shape.rows; ++i) indptr[i] += indptr[i - 1];
  for_each([&](std::int64_t row, std::int64_t column, std::int64_t at) {
    const std::int64_t p = indptr[row + 1]++;
    rows.indices[p] = column;
    std::memcpy(rows.values.data() + p * size, values + at * size, static_cast<std::size_t>(size));
  });
  return rows;
}

}  // namespace gossamer::detail
