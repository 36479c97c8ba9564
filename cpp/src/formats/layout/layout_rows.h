#pragma once

// A block layout as the operations read it.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "gossamer/layout.h"

namespace gossamer::detail {

/// The arrays of a layout, and where the bits of each row begin.
struct LayoutRows {
  explicit LayoutRows(const BlockLayout& layout);

  /// The bits of row r's first block that has any; those of its others follow. Null where the
  /// layout has none.
  [[nodiscard]] const std::uint8_t* bits_of(std::int64_t r) const noexcept {
    return bits == nullptr ? nullptr : bits + first_bits[static_cast<std::size_t>(r)] * bit_bytes;
  }
  [[nodiscard]] bool has_bits(std::int64_t p) const noexcept {
    return bits != nullptr && kinds[p] == static_cast<std::uint8_t>(BlockKind::bits);
  }

  const std::int32_t* indptr;
  const std::int32_t* indices;
  const std::uint8_t* kinds;  // may be null
  const std::uint8_t* bits;   // null where no block has any
  std::int64_t bit_bytes;     // of one block
  std::vector<std::int64_t> first_bits;
};

/// For each column of blocks, the rows that keep it, in order, and at which entries.
struct TransposedLayout {
  explicit TransposedLayout(const BlockLayout& layout);

  Buffer<std::int32_t> indptr;   // [batch·heads·cols + 1]
  Buffer<std::int32_t> rows;     // [nblocks]
  Buffer<std::int32_t> entries;  // [nblocks]
};

}  // namespace gossamer::detail
