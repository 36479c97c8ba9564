#pragma once

// The "blocks" layout: row blocks × column blocks of segments (the entries of one row in a column
// block) sorted by length. Best for many columns of B: a tile of B's rows of a column block stays
// in the L1 cache.

#include <vector>

#include "formats/packed/layout.h"

namespace gossamer::detail {

struct BlocksLayout {
  static constexpr const char* kName = "blocks";

  PackedShape shape;
  std::int64_t block_rows, block_cols, row_blocks, col_blocks;
  // All [row_blocks*col_blocks + 1], row block major.
  std::vector<std::int64_t> run_begin, segment_begin, entry_begin;
  Buffer<std::int64_t> row_begin;  // [rows], where each row begins in the source
  Buffer<std::uint16_t> run_length, run_count;
  Buffer<std::uint16_t> rows;
  Buffer<std::uint8_t> indices;
  Buffer<std::byte> values;  // of the source's type

  static BlocksLayout make(const RowsView& a, const PackOptions& options);
  [[nodiscard]] std::int64_t bytes() const;
  [[nodiscard]] OwnedRows to_rows() const;
  /// Where each segment begins.
  [[nodiscard]] SourcePositions source() const;
  void update(const void* from, const SourcePositions& source) const;
  void multiply(const Product& product) const;
};

}  // namespace gossamer::detail
