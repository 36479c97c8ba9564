#pragma once

// Slices of N:M matrices as dense tiles. Where A's rows are lines, a thread writes a group of a
// line into a row of the tile, where they are elements of lines, into a column.

#include "formats/nm/kernels/nm_positions.cuh"
#include "products/kernels/decoded.cuh"

namespace gossamer::cuda {

template <class T>
struct NmDecoder {
  NmLines a;
  int groups;   // of a line, in a tile
  bool across;  // A's rows are elements of lines

  __device__ void decode(T* tile, std::int64_t row0, int slice, int thread) const {
    constexpr int kPitch = DecodedTile<T>::kPitchA;
    const int lines = across ? DecodedTile<T>::kDepth : kDecodedSide;
    const std::int64_t line0 = across ? static_cast<std::int64_t>(slice) * lines : row0;
    const std::int64_t group0 = across ? row0 / a.m : static_cast<std::int64_t>(slice) * groups;
    const int line_step = across ? 1 : kPitch, step = across ? kPitch : 1;
    for (int i = thread; i < lines * groups; i += kDecodedThreads) {
      const std::int64_t line = line0 + i / groups, group = group0 + i % groups;
      T* const to = tile + i / groups * line_step + i % groups * a.m * step;
      for (int e = 0; e < a.m; ++e) to[e * step] = T(0.0f);
      if (line >= a.lines || group * a.m >= a.length) continue;
      const std::uint8_t* const positions = a.indices + line * a.index_bytes;
      const T* const values = static_cast<const T*>(a.values) + line * a.slots;
      for (std::int64_t s = group * a.n; s < (group + 1) * a.n; ++s) {
        to[nm_position(positions, s, a.bits) * step] = stored(values[s]);
      }
    }
  }
};

}  // namespace gossamer::cuda
