#pragma once

// The "bits" layout: which elements are entries, a bit each, and the values in row order. A product
// expands a strip of rows and multiplies it as a dense matrix: best for bfloat16 where the machine
// multiplies pairs of them, unless most are zero. Like the dense layout it must not meet an
// infinity or NaN in B.

#include "formats/packed/layout.h"

namespace gossamer::detail {

struct BitsLayout {
  static constexpr const char* kName = "bits";

  PackedShape shape;
  std::int64_t words;              // of bits, a row
  Buffer<std::int64_t> row_begin;  // [rows], where each row begins in the values
  Buffer<std::uint64_t> bits;      // [rows, words]
  Buffer<std::byte> values;        // [nnz] of the source's type, and kBehind that may be read

  static constexpr std::int64_t kBehind = 64;

  static BitsLayout make(const RowsView& a, const PackOptions& options);
  [[nodiscard]] std::int64_t bytes() const;
  [[nodiscard]] OwnedRows to_rows() const;
  [[nodiscard]] SourcePositions source() const { return {}; }
  void update(const void* from, const SourcePositions& source) const;
  void multiply(const Product& product) const;
};

}  // namespace gossamer::detail
