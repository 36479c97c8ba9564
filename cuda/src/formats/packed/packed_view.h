#pragma once

// Packed matrices that are trusted, as launches take them.

#include "formats/packed/kernels/packed_tiles.cuh"
#include "gossamer/packed_tiles.h"

namespace gossamer::cuda {

template <class V>
PackedView<V> view_of(const PackedTiles& a) {
  const bool bitmaps = a.layout() != TileLayout::deltas;
  return {.values = static_cast<V*>(a.values().data),
          .bits = bitmaps ? static_cast<std::uint32_t*>(a.places().data) : nullptr,
          .deltas = bitmaps ? nullptr : static_cast<std::uint8_t*>(a.places().data),
          .starts = static_cast<const int*>(a.starts().data),
          .indptr = static_cast<const int*>(a.indptr().data),
          .rows = a.rows(),
          .strips = static_cast<int>((a.rows() + kTileRows - 1) / kTileRows),
          .slices = static_cast<int>((a.cols() + kTileCols - 1) / kTileCols)};
}

}  // namespace gossamer::cuda
