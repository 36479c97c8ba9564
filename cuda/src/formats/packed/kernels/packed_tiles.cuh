#pragma once

// How packed matrices lie in memory. A tile has 16 rows and 64 columns. Lane l = 4g + t of a warp
// has its elements in rows g and g + 8 and, of each half of 32 columns, in the eight from 8t on: as
// A of four products m16n8k16 whose depth is numbered so that a lane has neighbours.
//
// Bitmaps: a word for each lane, with a bit for each of its 32 elements. The values are in the
// order of lanes, then of halves, rows and columns, and at least one value that means nothing
// follows them. Of float32, which fused multiply-adds take, lane l has its elements in the eight
// rows from l / 16 · 8 and the four columns from l % 16 · 4: an element of B meets eight rows. Its
// values are in the order of rows, then columns.
//
// Lanes: bitmaps again, of half precision, but lane 4g + t has, of each eight columns, the two from
// 2t on, as operands in memory's order have them. Its values are in the order of halves, rows and
// columns. Those of all lanes are interleaved, so that each lane loads its own: first as many
// eights of each lane as its mean, then fours of the lanes that have more, and zeros where a lane
// has fewer.
//
// Deltas: element e of the eight that lane l has in row g + 8r of half h is number
// ((2h + r)·32 + l)·8 + e. Of each entry, in this order, a byte says how many elements lie between
// it and the one before. Where more than 255 do, and at the tile's end, there are entries of value
// +0, which no other entry has: a zero that is stored is -0.

#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"
#include "base/ptx.cuh"
#include "gossamer/packed_tiles.h"

namespace gossamer::cuda {

inline constexpr int kTileRows = 16, kTileCols = 64;
inline constexpr int kTileSize = kTileRows * kTileCols;
/// Values of a tile begin with a multiple of these.
inline constexpr int kTileUnit = 8;

/// A packed matrix as launches take it. Values are words of V: float32, or half precision that is
/// only moved, or given to tensor cores.
template <class V>
struct PackedView {
  V* values;
  std::uint32_t* bits;   // bitmaps: [tiles, 32]
  std::uint8_t* deltas;  // deltas: one for each value
  const int* starts;     // [tiles + 1], in units
  const int* indptr;
  std::int64_t rows;
  int strips, slices;  // tiles down and across
};

/// An element of a tile.
struct TilePlace {
  int row, col;
};

/// Bitmaps of values of V: which element a lane's bit is, and which bit its k-th element has.
template <class V>
struct TileBits;

template <>
struct TileBits<std::uint16_t> {
  __device__ static TilePlace place(int lane, int bit) {
    return {lane / 4 + bit / 4 % 2 * 8, bit / 16 * 32 + lane % 4 * 8 + bit % 4 * 2 + bit / 8 % 2};
  }
  __device__ static int bit_of(const TilePlace& at) {
    return at.col / 32 * 16 + at.col % 2 * 8 + at.row / 8 * 4 + at.col % 8 / 2;
  }
  __device__ static int lane_of(const TilePlace& at) { return at.row % 8 * 4 + at.col % 32 / 8; }
  __device__ static int in_order(int k) { return k / 16 * 16 + k % 2 * 8 + k % 16 / 2; }
};

/// Of `lanes`.
struct LaneBits {
  __device__ static TilePlace place(int lane, int bit) {
    return {lane / 4 + bit / 4 % 2 * 8, bit / 16 * 32 + bit % 4 * 8 + lane % 4 * 2 + bit / 8 % 2};
  }
  __device__ static int bit_of(const TilePlace& at) {
    return at.col / 32 * 16 + at.col % 2 * 8 + at.row / 8 * 4 + at.col % 32 / 8;
  }
  __device__ static int lane_of(const TilePlace& at) { return at.row % 8 * 4 + at.col % 8 / 2; }
  __device__ static int in_order(int k) { return TileBits<std::uint16_t>::in_order(k); }
};

template <>
struct TileBits<float> {
  __device__ static TilePlace place(int lane, int bit) {
    return {lane / 16 * 8 + bit / 4, lane % 16 * 4 + bit % 4};
  }
  __device__ static int bit_of(const TilePlace& at) { return at.row % 8 * 4 + at.col % 4; }
  __device__ static int lane_of(const TilePlace& at) { return at.row / 8 * 16 + at.col / 4; }
  __device__ static int in_order(int k) { return k; }
};

/// Element number `number` of those that deltas count.
__device__ inline TilePlace place_of_number(int number) {
  const int lane = number / 8 % 32;
  return {lane / 4 + number / 256 % 2 * 8, number / 512 * 32 + lane % 4 * 8 + number % 8};
}
__device__ inline int number_of(const TilePlace& at) {
  const int lane = TileBits<std::uint16_t>::lane_of(at);
  return ((at.col / 32 * 2 + at.row / 8) * 32 + lane) * 8 + at.col % 8;
}

/// Of `lanes`: of how many eights of its entries each lane has a place, in a tile of `total`. That
/// is a lane's mean, rounded up from three quarters on.
inline constexpr int kTileEights = 4;
__device__ inline int eights_of(int total) { return (total + 64) / 256; }

/// Of `lanes`: where a lane's entries are among the values of its tile. A warp makes it together.
class LanePlaces {
 public:
  __device__ LanePlaces() : lane_(0), full_(0), size_(0), fours_(0) {}
  __device__ LanePlaces(std::uint32_t bits, int lane) : lane_(lane), fours_(0) {
    const int count = __popc(bits);
    full_ = 8 * eights_of(__reduce_add_sync(kAllLanes, count));
    int before = 0;
#pragma unroll
    for (int i = 0; i < 2 * kTileEights; ++i) {
      const unsigned lanes = __ballot_sync(kAllLanes, count > full_ + 4 * i);
      const int place = before + __popc(lanes & ((1u << lane) - 1));
      fours_ |= static_cast<std::uint64_t>(place & 255) << 8 * i;
      before += __popc(lanes);
    }
    size_ = 32 * full_ + 4 * before;
  }
  [[nodiscard]] __device__ int size() const { return size_; }
  [[nodiscard]] __device__ int operator[](int entry) const {
    const int within = entry - full_;
    if (within < 0) return (entry / 8 * 32 + lane_) * 8 + entry % 8;
    return 32 * full_ + static_cast<int>(fours_ >> within / 4 * 8 & 255) * 4 + within % 4;
  }

 private:
  int lane_, full_, size_;
  std::uint64_t fours_;  // a byte for each four after the full ones
};

/// The element that a lane's bit stands for in 32 words a tile; for deltas, its number's.
template <class V>
__device__ inline TilePlace place_in(TileLayout layout, int lane, int bit) {
  if (layout == TileLayout::deltas) return place_of_number(lane * 32 + bit);
  return layout == TileLayout::lanes ? LaneBits::place(lane, bit) : TileBits<V>::place(lane, bit);
}

/// The sum of the lanes up to this one; of every `Step`th of them, if it is not 1.
template <int Step = 1>
__device__ inline int sum_up_to(int value) {
#pragma unroll
  for (int step = Step; step < 32; step *= 2) value = add_from_below(value, step);
  return value;
}

}  // namespace gossamer::cuda
