#pragma once

// Layouts transposed, and written as masks.

#include "base/device.cuh"
#include "formats/layout/kernels/layout_rows.cuh"

namespace gossamer::cuda {

/// A layout's arrays. `places`: of each block of kind 2, its number among those plus 1; null where
/// none has bits.
struct LayoutBlocks {
  const int* indptr;
  const int* indices;
  const std::uint8_t* kinds;
  const std::uint8_t* bits;
  const int* places;
  std::int64_t rows, cols, bm, bn;  // rows of a head
};

/// Marks the blocks of kind 2; their prefix sums are `places`.
[[maybe_unused]] static __global__ void layout_mark_kinds(const std::uint8_t* kinds,
                                                          std::int64_t blocks, int* marks) {
  const std::int64_t p = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p < blocks) marks[p] = kinds[p] == 2 ? 1 : 0;
}

/// Columns counted through all heads, a row by a warp: then all heads are one matrix.
[[maybe_unused]] static __global__ void layout_join_heads(const LayoutBlocks from,
                                                          std::int64_t all_rows, int* columns) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kLayoutWarps + threadIdx.x / 32;
  if (r >= all_rows) return;
  const int shift = static_cast<int>(r / from.rows * from.cols);
  for (int p = from.indptr[r] + lane; p < from.indptr[r + 1]; p += 32) {
    columns[p] = from.indices[p] + shift;
  }
}

/// Rows of heads of their own again, and what goes with the blocks; block q was entries[q].
[[maybe_unused]] static __global__ void layout_part_heads(const LayoutBlocks from,
                                                          const int* entries, std::int64_t blocks,
                                                          LayoutFilled to) {
  const std::int64_t q = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (q >= blocks) return;
  to.indices[q] = static_cast<int>(to.indices[q] % from.rows);
  if (to.kinds != nullptr) to.kinds[q] = from.kinds[entries[q]];
}

/// Transposes the bits of a block, a block by a warp; each lane has rows of the result.
[[maybe_unused]] static __global__ void __launch_bounds__(32 * kLayoutWarps, 4)
    layout_turn_bits(const LayoutBlocks from, const int* entries, const std::uint8_t* kinds,
                     const int* places, std::int64_t blocks, std::uint8_t* bits) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t q = static_cast<std::int64_t>(blockIdx.x) * kLayoutWarps + threadIdx.x / 32;
  if (q >= blocks || kinds[q] != 2) return;
  const std::int64_t pitch = (from.bn + 7) / 8, turned = (from.bm + 7) / 8;
  const std::uint8_t* read = from.bits + (from.places[entries[q]] - 1) * from.bm * pitch;
  std::uint8_t* write = bits + (places[q] - 1) * from.bn * turned;
  for (std::int64_t c = lane; c < from.bn; c += 32) {
    for (std::int64_t b = 0; b < turned; ++b) {
      unsigned byte = 0;
      for (std::int64_t i = 8 * b; i < 8 * b + 8 && i < from.bm; ++i) {
        byte |= (read[i * pitch + c / 8] >> (c % 8) & 1u) << (i % 8);
      }
      write[c * turned + b] = static_cast<std::uint8_t>(byte);
    }
  }
}

/// Writes what a row keeps of a mask that is zero, a row by a warp: of blocks, or of elements.
[[maybe_unused]] static __global__ void __launch_bounds__(32 * kLayoutWarps, 4)
    layout_write_mask(const LayoutBlocks from, std::int64_t all_rows, bool elements,
                      std::uint8_t* mask) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kLayoutWarps + threadIdx.x / 32;
  if (r >= all_rows) return;
  const std::int64_t width = from.cols * from.bn, pitch = (from.bn + 7) / 8;
  if (!elements) {
    for (int p = from.indptr[r] + lane; p < from.indptr[r + 1]; p += 32) {
      mask[r * from.cols + from.indices[p]] = 1;
    }
    return;
  }
  for (int p = from.indptr[r]; p < from.indptr[r + 1]; ++p) {
    const bool partly = from.places != nullptr && from.kinds[p] == 2;
    const std::uint8_t* bits =
        partly ? from.bits + (from.places[p] - 1) * from.bm * pitch : nullptr;
    std::uint8_t* to = mask + r * from.bm * width + from.indices[p] * from.bn;
    for (std::int64_t i = 0; i < from.bm; ++i) {
      for (std::int64_t c = lane; c < from.bn; c += 32) {
        to[i * width + c] = partly
                                ? static_cast<std::uint8_t>(bits[i * pitch + c / 8] >> (c % 8) & 1u)
                                : std::uint8_t{1};
      }
    }
  }
}

}  // namespace gossamer::cuda
