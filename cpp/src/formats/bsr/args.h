#pragma once

// What the kernels of BSR's conversions take.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::detail {

/// kept[j] = 1 where a column in [j*block_cols, (j+1)*block_cols) of `source` [rows, cols] holds an
/// element that is kept, else 0: mask bytes other than 0 where `size` is 1, else values of `size`
/// bytes other than ±0. `cols` is a multiple of block_cols.
struct BsrFindArgs {
  const void* source;
  int size;
  std::int64_t stride;
  std::int64_t rows, cols, block_cols;
  void* fold;  // [cols] elements, scratch
  std::uint8_t* kept;
};

/// out[c*rows + r] = source[r*cols + c] for elements of `size` bytes.
struct BsrTransposeBlockArgs {
  const void* source;
  int size;
  std::int64_t rows, cols;
  void* out;
};

}  // namespace gossamer::detail
