#pragma once

// Copies of the rows that a task reads many times: side by side, in the type of sums. Rows a power
// of two apart evict each other from the first-level cache, and 16-bit rows are else converted at
// each entry.

#include <cstdint>

#include "attention/csr/args.h"
#include "base/numbers.h"
#include "base/scratch.h"

namespace gossamer::detail {

class PackedRows {
 public:
  /// Copies `rows` rows of one head where `packed`, else keeps them as they are.
  PackedRows(const HeadRows& from, DType type, std::int64_t rows, std::int64_t depth, bool packed)
      : copy_(packed ? rows * depth * (type == DType::f64 ? 8 : 4) : 0), rows_(from) {
    if (!packed) return;
    widen(from.data, type, from.row, rows, depth, copy_.data());
    rows_ = {.data = copy_.data(), .row = depth, .head = depth};
  }

  [[nodiscard]] const HeadRows& rows() const noexcept { return rows_; }

 private:
  Scratch copy_;
  HeadRows rows_;
};

/// Does each of `rows` rows serve so many of a task's `entries` that a copy pays?
inline bool copies_pay(std::int64_t entries, std::int64_t rows) { return entries >= 4 * rows; }

}  // namespace gossamer::detail
