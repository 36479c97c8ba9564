#pragma once

// Products of matrices with far more columns than entries. Most rows of B meet no entry of A, so a
// copy of B in tiles would take memory, and time, for nothing: the columns of A without an entry
// are left out, and only the other rows of B are copied.

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/cut.h"
#include "formats/rows_view.h"
#include "gossamer/detail/product_checks.h"

namespace gossamer::detail {

/// Is a side of a matrix with `entries` entries so long that its empty rows or columns are worth
/// leaving out? `group` rows of B belong to each of them. No result depends on it.
[[nodiscard]] constexpr bool is_hollow(std::int64_t side, std::int64_t entries,
                                       std::int64_t group = 1) noexcept {
  return side >= (std::int64_t{1} << 16) / group && entries <= side / 32;
}

/// A·B without A's empty columns.
class CompactColumns {
 public:
  CompactColumns(const RowsView& a, const Product& product, std::int64_t group = 1);

  /// A with its columns renumbered; the same entries in the same order.
  [[nodiscard]] const RowsView& matrix() const noexcept { return matrix_; }
  [[nodiscard]] const Product& product() const noexcept { return product_; }

 private:
  RowsView matrix_;
  Product product_;
  Buffer<std::byte> indices_, b_;
};

/// Aᵀ·B without A's empty rows.
class CompactRows {
 public:
  CompactRows(const RowsView& a, const Product& product, std::int64_t group = 1);

  /// A without these rows.
  [[nodiscard]] const RowsView& matrix() const noexcept { return matrix_; }
  /// The same ranges of rows in it.
  [[nodiscard]] RowRanges ranges(const RowRanges& of_a) const;
  [[nodiscard]] const Product& product() const noexcept { return product_; }

 private:
  RowsView matrix_;
  Product product_;
  std::vector<std::int64_t> rows_;  // those that are left
  Buffer<std::byte> indptr_, b_;
};

}  // namespace gossamer::detail
