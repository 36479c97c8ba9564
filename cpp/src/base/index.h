#pragma once

// Index arrays of sparse matrices: int32 or int64.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::detail {

/// Calls f(I{}) for the index type I.
template <class F>
void with_index_type(DType type, F&& f) {
  if (type == DType::i64) {
    f(std::int64_t{});
  } else {
    f(std::int32_t{});
  }
}

/// The row pointers of a compressed matrix, whatever their type.
struct RowPointers {
  const void* data;
  bool wide;  // int64

  [[nodiscard]] std::int64_t operator[](std::int64_t i) const noexcept {
    return wide ? static_cast<const std::int64_t*>(data)[i]
                : static_cast<const std::int32_t*>(data)[i];
  }
};

}  // namespace gossamer::detail
