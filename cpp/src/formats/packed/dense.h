#pragma once

// The "dense" layout: all elements, zeros too, and which of them are entries. Best where so few are
// zero that skipping them costs more than multiplying by them. It must not meet an infinity or NaN
// in B: under a zero that is no entry these do not matter.

#include "formats/packed/layout.h"

namespace gossamer::detail {

struct DenseLayout {
  static constexpr const char* kName = "dense";

  PackedShape shape;
  std::int64_t words;              // of bits, a row
  Buffer<std::int64_t> row_begin;  // [rows], where each row begins in the source
  Buffer<std::uint64_t> bits;      // [rows, words]
  Buffer<std::byte> values;        // [rows, cols] of the source's type

  static DenseLayout make(const RowsView& a, const PackOptions& options);
  [[nodiscard]] std::int64_t bytes() const;
  [[nodiscard]] OwnedRows to_rows() const;
  [[nodiscard]] SourcePositions source() const { return {}; }
  void update(const void* from, const SourcePositions& source) const;
  void multiply(const Product& product) const;
};

}  // namespace gossamer::detail
