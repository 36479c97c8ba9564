#pragma once

// The pattern of a matrix of marks, as CSR: what the conversions of both formats are made of.

#include <cstdint>

#include "gossamer/cuda.h"
#include "gossamer/detail/check.h"

namespace gossamer::cuda {

/// A contiguous matrix of bytes on the current device, nonzero where an entry is. Less than 2^31 -
/// 1 rows and columns.
struct Marks {
  std::uint8_t* data;
  int rows, cols;
};

/// True where more entries than an int32 counts are possible.
[[nodiscard]] inline bool may_overflow(std::int64_t rows, std::int64_t cols) noexcept {
  return rows * cols > 0x7fffffff;
}

/// Fills indptr [rows+1], waits, and returns how many marks there are. `total` is room for one
/// number where may_overflow. Throws ValueError for more `noun` of `w` than an int32 counts.
[[nodiscard]] std::int64_t count_marks(const detail::Checker& check, const Marks& marks,
                                       int* indptr, std::int64_t* total, const char* noun,
                                       Stream stream);

/// Fills indices for the indptr of count_marks.
void fill_marks(const Marks& marks, int* indptr, int* indices, Stream stream);

}  // namespace gossamer::cuda
