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

/// Positions in the source of a packed matrix: 4 bytes each where those can hold them.
class SourcePositions {
 public:
  SourcePositions() = default;
  /// Room for `size` positions in a source of nnz entries.
  SourcePositions(std::int64_t size, std::int64_t nnz)
      : narrow_(nnz <= kNarrow ? size : 0), wide_(nnz <= kNarrow ? 0 : size) {}

  [[nodiscard]] std::int64_t size() const { return narrow_.size() + wide_.size(); }
  [[nodiscard]] std::int64_t bytes() const { return narrow_.bytes() + wide_.bytes(); }
  void set(std::int64_t i, std::int64_t position) {
    if (wide_.size() == 0) {
      narrow_[i] = static_cast<std::uint32_t>(position);
    } else {
      wide_[i] = position;
    }
  }
  /// Calls f(the positions).
  template <class F>
  void visit(F&& f) const {
    if (wide_.size() == 0) {
      f(narrow_.data());
    } else {
      f(wide_.data());
    }
  }

 private:
  static constexpr std::int64_t kNarrow = std::int64_t{1} << 32;
  Buffer<std::uint32_t> narrow_;
  Buffer<std::int64_t> wide_;
};

/// to[i] = from[positions[i]], of values that have `size` bytes each.
void gather_values(const void* from, const SourcePositions& positions, std::int64_t size, void* to);

/// A matrix in row order that owns its memory: what a layout turns back into.
struct OwnedRows {
  Buffer<std::int64_t> indptr, indices;
  Buffer<std::byte> values;
  PackedShape shape;

  /// Uninitialised memory for so many entries.
  explicit OwnedRows(const PackedShape& shape_);
  [[nodiscard]] RowsView view() const;
  [[nodiscard]] OwnedRows transposed() const;
  /// Which entry of this matrix each entry of its transpose is.
  [[nodiscard]] SourcePositions transposed_order() const;
};

/// Calls f(T{}) with an unsigned integer of `size` bytes, 2, 4 or 8: values that are only moved.
template <class F>
void with_size(std::int64_t size, F&& f) {
  if (size == 2) {
    f(std::uint16_t{});
  } else if (size == 4) {
    f(std::uint32_t{});
  } else {
    f(std::uint64_t{});
  }
}

/// About the nanoseconds that one thread takes to move so many values.
inline double move_cost(std::int64_t values) { return 0.2 * static_cast<double>(values); }

/// The entries of a layout in row order. `for_each` calls visit(row, column, position of the value)
/// for each of them, twice, with ascending columns within a row; `values` are the layout's.
template <class ForEach>
OwnedRows collect_rows(const PackedShape& shape, const std::byte* values, ForEach&& for_each) {
  OwnedRows rows(shape);
  const std::int64_t size = size_of(shape.dtype);
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
