#pragma once

// The packed positions of N:M matrices (gossamer/nm.h).

#include "base/kernels/numbers.cuh"

namespace gossamer::cuda {

/// An N:M matrix on the current device.
struct NmLines {
  const void* values;
  const std::uint8_t* indices;
  std::int64_t index_bytes;  // of a line
  std::int64_t lines, slots, length;
  int n, m, bits;
};

/// Position `slot` of the line that begins at `line`.
__device__ inline int nm_position(const std::uint8_t* line, std::int64_t slot, int bits) {
  const std::int64_t first = slot * bits;
  const int shift = static_cast<int>(first % 8);
  unsigned word = 0;
  if (bits != 0) {  // there are no bytes where m is 1
    word = line[first / 8];
    if (shift + bits > 8) word |= static_cast<unsigned>(line[first / 8 + 1]) << 8;
  }
  return static_cast<int>(word >> shift & ((1u << bits) - 1));
}

}  // namespace gossamer::cuda
