#pragma once

#include "base/kernels/numbers.cuh"

namespace gossamer::cuda {

/// A group-quantised matrix on the current device (gossamer/group_quant.h).
struct QuantRows {
  const int* indptr;
  const std::uint16_t* indices;
  const std::uint8_t* codes;
  const __half* scales;
  const std::uint8_t* zeros;
  std::int64_t rows, cols;
  int group, bits;
};

/// Code j of the group whose codes begin at `codes`.
__device__ inline int quant_code(const std::uint8_t* codes, int j, int bits) {
  return bits == 8 ? codes[j] : codes[j / 2] >> (j % 2 * 4) & 15;
}

}  // namespace gossamer::cuda
