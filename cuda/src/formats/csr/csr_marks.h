#pragma once

// The CSR pattern of a matrix of marks, which the conversions of both formats use.

#include <cstdint>

#include "gossamer/cuda.h"
#include "gossamer/detail/check.h"

namespace gossamer::cuda {

/// A contiguous matrix of bytes on the current device; a nonzero byte marks an entry. It has less
/// than 2^31 - 1 rows and columns.
struct Marks {
  std::uint8_t* data;
  int rows, cols;
};

/// Whether there can be more entries than an int32 counts.
[[nodiscard]] inline bool may_overflow(std::int64_t rows, std::int64_t cols) noexcept {
  return rows * cols > 0x7fffffff;
}

/// Fills indptr [rows+1], waits, and returns the number of marks. `total` points to room for one
/// number if may_overflow. Throws ValueError if `w` has more `noun` than an int32 counts.
[[nodiscard]] std::int64_t count_marks(const detail::Checker& check, const Marks& marks,
                                       int* indptr, std::int64_t* total, const char* noun,
                                       Stream stream);

/// Fills indptr [rows+1] without waiting. There are not more marks than an int32 counts.
void sum_marks(const Marks& marks, int* indptr, Stream stream);

/// Fills indices, for the indptr that one of both wrote.
void fill_marks(const Marks& marks, int* indptr, int* indices, Stream stream);

}  // namespace gossamer::cuda
