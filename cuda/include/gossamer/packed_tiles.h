#pragma once

#include <cstdint>

#include "gossamer/tensor.h"

namespace gossamer::cuda {

/// How the places of a tile's entries are stored.
enum class TileLayout : std::uint8_t {
  bitmap,  ///< a bit for each element of the tile
  lanes,   ///< the same, its values where each lane loads its own: for many columns
  deltas,  ///< a byte for each entry: how many elements lie between it and the entry before
};

/// A CSR matrix re-laid for products on GPUs, over borrowed arrays on a device that `pack_count`
/// and `pack_fill` fill: what they hold is trusted. Tiles have 16 rows and 64 columns; the order of
/// entries within one is that in which a warp's lanes take them, of half precision for tensor
/// cores. Of float32, the layout is `bitmap`.
class PackedTiles {
 public:
  /// `values` [8·units], float16, bfloat16 or float32; `places`, int32 [32·tiles] for bitmaps and
  /// lanes, uint8 [8·units] for deltas; `starts`, int32 [tiles+1], where each tile's units of eight
  /// values begin; `indptr`, int32 [rows+1], of the matrix that was packed.
  PackedTiles(TileLayout layout, const TensorView& values, const TensorView& places,
              const TensorView& starts, const TensorView& indptr, std::int64_t rows,
              std::int64_t cols, std::int64_t nnz) noexcept
      : layout_(layout),
        values_(values),
        places_(places),
        starts_(starts),
        indptr_(indptr),
        rows_(rows),
        cols_(cols),
        nnz_(nnz) {}

  [[nodiscard]] TileLayout layout() const noexcept { return layout_; }
  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::int64_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::int64_t nnz() const noexcept { return nnz_; }
  [[nodiscard]] DType dtype() const noexcept { return values_.dtype; }
  [[nodiscard]] Device device() const noexcept { return values_.device; }
  [[nodiscard]] const TensorView& values() const noexcept { return values_; }
  [[nodiscard]] const TensorView& places() const noexcept { return places_; }
  [[nodiscard]] const TensorView& starts() const noexcept { return starts_; }
  [[nodiscard]] const TensorView& indptr() const noexcept { return indptr_; }
  [[nodiscard]] std::int64_t nbytes() const noexcept {
    std::int64_t bytes = 0;
    for (const TensorView* part : {&values_, &places_, &starts_, &indptr_}) {
      bytes += part->shape[0] * size_of(part->dtype);
    }
    return bytes;
  }

 private:
  TileLayout layout_;
  TensorView values_, places_, starts_, indptr_;
  std::int64_t rows_, cols_, nnz_;
};

/// Products of up to so many columns expand tiles into registers, wider ones into shared memory,
/// for 256 columns at a time.
inline constexpr int kNarrowColumns = 64;

/// Of float32, up to so many columns; wider ones by 64 columns.
inline constexpr int kNarrowFloatColumns = 32;

/// How many tiles cover a matrix of this size.
[[nodiscard]] constexpr std::int64_t tile_count(std::int64_t rows, std::int64_t cols) noexcept {
  return ((rows + 15) / 16) * ((cols + 63) / 64);
}

}  // namespace gossamer::cuda
