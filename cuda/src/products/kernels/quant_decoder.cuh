#pragma once

// Slices of group-quantised matrices as dense tiles of sums' type: (code - zero)·scale has at most
// 19 bits, which float32 holds and half precision does not. A thread finds the group of 16 columns
// of a row by bisection and decodes them.

#include "formats/quant/kernels/quant_rows.cuh"
#include "products/kernels/decoded.cuh"

namespace gossamer::cuda {

template <class E>
struct QuantDecoder {
  QuantRows a;
  bool across;  // A is the matrix's transpose

  __device__ void decode(E* tile, std::int64_t row0, int slice, int thread) const {
    using Tile = DecodedTile<E>;
    constexpr int kPart = 16;
    const std::int64_t k0 = static_cast<std::int64_t>(slice) * Tile::kDepth;
    const std::int64_t first = across ? k0 : row0, column0 = across ? row0 : k0;
    const int rows = across ? Tile::kDepth : kDecodedSide;
    const int parts = (across ? kDecodedSide : Tile::kDepth) / kPart;
    const int step = across ? Tile::kPitchA : 1, row_step = across ? 1 : Tile::kPitchA;
    for (int i = thread; i < rows * parts; i += kDecodedThreads) {
      const int r = i / parts, part = i % parts;
      E* const to = tile + r * row_step + part * kPart * step;
      const std::int64_t row = first + r, column = column0 + part * kPart;
      int low = 0, high = 0;
      const int wanted = static_cast<int>(column / a.group);
      if (row < a.rows && column < a.cols) {
        low = a.indptr[row];
        high = a.indptr[row + 1];
      }
      const int end = high;
      while (low < high) {
        const int middle = low + (high - low) / 2;
        if (a.indices[middle] < wanted) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      if (low < end && a.indices[low] == wanted) {
        const std::uint8_t* const codes =
            a.codes + static_cast<std::int64_t>(low) * (a.group * a.bits / 8);
        const E scale = E(__half2float(a.scales[low]));
        const int zero = a.zeros[low], offset = static_cast<int>(column % a.group);
#pragma unroll
        for (int e = 0; e < kPart; ++e) {
          to[e * step] = stored(E(quant_code(codes, offset + e, a.bits) - zero) * scale);
        }
      } else {
#pragma unroll
        for (int e = 0; e < kPart; ++e) to[e * step] = E(0);
      }
    }
  }
};

}  // namespace gossamer::cuda
