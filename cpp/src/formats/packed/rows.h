#pragma once

// The "rows" layout: row order with the narrowest indices. Best where few entries are left, and the
// only one that serves every density.

#include "formats/packed/layout.h"

namespace gossamer::detail {

struct RowsLayout {
  static constexpr const char* kName = "rows";

  PackedShape shape;
  IndexKind kind;
  Buffer<std::byte> indptr, indices, values;  // values of the source's type

  static RowsLayout make(const RowsView& a, const PackOptions& options);
  [[nodiscard]] std::int64_t bytes() const;
  [[nodiscard]] OwnedRows to_rows() const;
  [[nodiscard]] SourcePositions source() const { return {}; }
  void update(const void* from, const SourcePositions& source) const;
  void multiply(const Product& product) const;

  [[nodiscard]] RowsView view() const;
};

}  // namespace gossamer::detail
