#pragma once

// The "strips" layout: 16-row groups in strips of columns, strip after strip within a block of
// groups. Best for few columns of B, of matrices that are not too sparse. Its kernel needs vectors
// of 64 bytes.

#include <vector>

#include "formats/packed/layout.h"
#include "formats/packed/strip_group.h"

namespace gossamer::detail {

struct StripsLayout {
  static constexpr const char* kName = "strips";
  /// Rows of a group: one for each lane of a vector.
  static constexpr int kLanes = 16;

  PackedShape shape;
  int width;
  std::int64_t groups_per_block, blocks, strips;
  std::vector<std::int64_t> step_begin;   // [blocks+1], into counts
  std::vector<std::int64_t> entry_begin;  // [blocks+1], into indices and values
  Buffer<std::int64_t> row_begin;         // [rows], where each row begins in the source
  Buffer<StripGroup> groups;              // per block [strips*groups]
  Buffer<std::uint8_t> counts;            // [steps]
  Buffer<std::uint8_t> indices;           // [entries + 16]
  Buffer<std::byte> values;               // [entries + 16] of the source's type

  static StripsLayout make(const RowsView& a, const PackOptions& options);
  [[nodiscard]] std::int64_t bytes() const;
  [[nodiscard]] OwnedRows to_rows() const;
  /// The position of each entry, of a matrix that is updated by it.
  [[nodiscard]] SourcePositions source() const;
  void update(const void* from, const SourcePositions& source) const;
  void multiply(const Product& product) const;
};

}  // namespace gossamer::detail
