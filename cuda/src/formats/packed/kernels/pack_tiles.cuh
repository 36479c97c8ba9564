#pragma once

// CSR matrices to packed ones. Which elements are stored is first marked in 32 words a tile, whose
// bits are the layout's elements in its own order; tiles are counted, their starts added up, and
// each warp then walks along a strip of 16 rows with a cursor in each row, and moves the values.
// Updates do the last step again.

#include "formats/packed/kernels/packed_tiles.cuh"

namespace gossamer::cuda {

inline constexpr int kPackThreads = 128, kPackWarps = kPackThreads / 32;

/// -0, by which deltas tell a zero that is stored from what is no entry.
template <class V>
inline constexpr V kStoredZero = std::is_same_v<V, float> ? V(-0.0f) : V(0x8000);

struct PackMarkArgs {
  const int* indptr;
  const int* indices;
  std::int64_t rows;
  int slices;
  TileLayout layout;
  std::uint32_t* marks;  // [tiles, 32], zeros
};

/// A warp marks a row's entries.
template <class V>
__global__ void __launch_bounds__(kPackThreads) pack_mark(PackMarkArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * kPackWarps + static_cast<int>(threadIdx.x) / 32;
  if (row >= a.rows) return;
  const unsigned end = static_cast<unsigned>(a.indptr[row + 1]);
  for (unsigned p = static_cast<unsigned>(a.indptr[row] + lane); p < end; p += 32) {
    const int col = a.indices[p];
    const TilePlace at{static_cast<int>(row % kTileRows), col % kTileCols};
    int word = number_of(at) / 32, bit = number_of(at) % 32;
    if (a.layout == TileLayout::bitmap) {
      word = TileBits<V>::lane_of(at);
      bit = TileBits<V>::bit_of(at);
    } else if (a.layout == TileLayout::lanes) {
      word = LaneBits::lane_of(at);
      bit = LaneBits::bit_of(at);
    }
    atomicOr(a.marks + (row / kTileRows * a.slices + col / kTileCols) * 32 + word, 1u << bit);
  }
}

/// What a lane stores for the bits of its word, where the lanes' entries follow each other.
struct LaneEntries {
  int count;   // of entries
  int before;  // those of the lanes before
  int next;    // deltas: the number after the last element that a lane before has
};

__device__ inline LaneEntries entries_of(std::uint32_t marks, TileLayout layout, int lane) {
  LaneEntries found{.count = __popc(marks), .before = 0, .next = 0};
  if (layout == TileLayout::deltas) {
    int last = marks == 0 ? 0 : lane * 32 + 32 - __clz(static_cast<int>(marks));
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int left = __shfl_up_sync(kAllLanes, last, static_cast<unsigned>(step));
      if (lane >= step) last = largest(last, left);
    }
    last = __shfl_up_sync(kAllLanes, last, 1u);
    found.next = lane == 0 ? 0 : last;
    const int first = lane * 32 + __ffs(static_cast<int>(marks)) - 1;
    if (marks != 0) found.count += (first - found.next) / 256;
  }
  found.before = sum_up_to(found.count) - found.count;
  return found;
}

struct PackCountArgs {
  const std::uint32_t* marks;  // [tiles, 32]
  int tiles;
  TileLayout layout;
  int* units;  // [tiles]
};

/// A warp counts the units of a tile.
static __global__ void __launch_bounds__(kPackThreads) pack_count_units(PackCountArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t tile =
      static_cast<std::int64_t>(blockIdx.x) * kPackWarps + static_cast<int>(threadIdx.x) / 32;
  if (tile >= a.tiles) return;
  const std::uint32_t marks = a.marks[tile * 32 + lane];
  int count = 0;
  if (a.layout == TileLayout::lanes) {
    count = LanePlaces(marks, lane).size();
  } else {
    const LaneEntries entries = entries_of(marks, a.layout, lane);
    count = entries.before + entries.count;
    // One value more than there are follows those of a bitmap.
    if (a.layout == TileLayout::bitmap && count != 0) ++count;
  }
  if (lane == 31) a.units[tile] = (count + kTileUnit - 1) / kTileUnit;
}

struct PackReadArgs {
  PackedView<std::uint16_t> a;
  int tiles;
  std::uint32_t* marks;  // [tiles, 32], zeros
};

/// A warp marks the entries of a tile of deltas.
static __global__ void __launch_bounds__(kPackThreads) pack_read_deltas(PackReadArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t tile =
      static_cast<std::int64_t>(blockIdx.x) * kPackWarps + static_cast<int>(threadIdx.x) / 32;
  if (tile >= a.tiles) return;
  const std::int64_t first = static_cast<std::int64_t>(a.a.starts[tile]) * kTileUnit;
  const std::int64_t end = static_cast<std::int64_t>(a.a.starts[tile + 1]) * kTileUnit;
  int at = 0;
  for (std::int64_t base = first; base < end; base += 32) {
    const std::int64_t entry = base + lane;
    const int step = entry < end ? a.a.deltas[entry] + 1 : 0;
    const int after = at + sum_up_to(step);
    if (entry < end && a.a.values[entry] != 0) {
      atomicOr(a.marks + tile * 32 + (after - 1) / 32, 1u << (after - 1) % 32);
    }
    at = __shfl_sync(kAllLanes, after, 31);
  }
}

template <class V>
struct PackDenseArgs {
  PackedView<V> a;
  TileLayout layout;
  int tiles;
  std::int64_t cols;
  V* out;  // out[i*ldo + j]
  std::int64_t ldo;
};

/// A warp writes a tile out in full.
template <class V>
__global__ void __launch_bounds__(kPackThreads) pack_to_dense_tiles(PackDenseArgs<V> a) {
  __shared__ V elements[kPackWarps][kTileRows][kTileCols + 2];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t tile = static_cast<std::int64_t>(blockIdx.x) * kPackWarps + warp;
  if (tile >= a.tiles) return;
  for (int row = 0; row < kTileRows; ++row) {
    elements[warp][row][lane] = elements[warp][row][lane + 32] = V(0);
  }
  __syncwarp();  // orders the zeros before the values
  const auto put = [&](const TilePlace& at, V value) {
    elements[warp][at.row][at.col] = value == kStoredZero<V> ? V(0) : value;
  };
  const std::int64_t first = static_cast<std::int64_t>(a.a.starts[tile]) * kTileUnit;
  if (a.layout == TileLayout::lanes) {
    const std::uint32_t bits = a.a.bits[tile * 32 + lane];
    const LanePlaces places(bits, lane);
    int entry = 0;
    for (int k = 0; k < 32; ++k) {
      const int bit = LaneBits::in_order(k);
      if ((bits >> bit & 1u) != 0) {
        put(LaneBits::place(lane, bit), a.a.values[first + places[entry++]]);
      }
    }
  } else if (a.layout == TileLayout::bitmap) {
    const std::uint32_t bits = a.a.bits[tile * 32 + lane];
    std::int64_t entry = first + sum_up_to(__popc(bits)) - __popc(bits);
    for (int k = 0; k < 32; ++k) {
      const int bit = TileBits<V>::in_order(k);
      if ((bits >> bit & 1u) != 0) put(TileBits<V>::place(lane, bit), a.a.values[entry++]);
    }
  } else {
    const std::int64_t end = static_cast<std::int64_t>(a.a.starts[tile + 1]) * kTileUnit;
    int at = 0;
    for (std::int64_t base = first; base < end; base += 32) {
      const std::int64_t entry = base + lane;
      const int after = at + sum_up_to(entry < end ? a.a.deltas[entry] + 1 : 0);
      const V value = entry < end ? a.a.values[entry] : V(0);
      if (value != V(0)) put(place_of_number(after - 1), value);
      at = __shfl_sync(kAllLanes, after, 31);
    }
  }
  __syncwarp();  // orders the values before their reads
  const std::int64_t row0 = tile / a.a.slices * kTileRows, col0 = tile % a.a.slices * kTileCols;
  const std::int64_t rows = least<std::int64_t>(a.a.rows - row0, kTileRows);
  for (int row = 0; row < rows; ++row) {
    for (int col = lane; col < kTileCols && col0 + col < a.cols; col += 32) {
      a.out[(row0 + row) * a.ldo + col0 + col] = elements[warp][row][col];
    }
  }
}

template <class V>
struct PackFillArgs {
  PackedView<V> to;
  const std::uint32_t* marks;  // [tiles, 32]
  const V* values;             // in the order of the CSR matrix
  TileLayout layout;
};

/// Writes a tile's bits by rows. A lane has four groups of eight neighbours; of float32, the halves
/// of eight of them; of `lanes`, two of each of sixteen.
template <class V>
__device__ __forceinline__ void rows_of_marks(std::uint32_t marks, TileLayout layout, int lane,
                                              std::uint32_t (&stored)[kTileRows][2]) {
  if (layout == TileLayout::lanes) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t mine = marks >> (i % 2 * 16 + i / 2 * 4);
      std::uint32_t word = 0;
#pragma unroll
      for (int group = 0; group < 4; ++group) {
        const std::uint32_t two = (mine >> group & 1u) | (mine >> (8 + group) & 1u) << 1;
        word |= two << (8 * group + lane % 4 * 2);
      }
      word |= __shfl_xor_sync(kAllLanes, word, 1);
      word |= __shfl_xor_sync(kAllLanes, word, 2);
      if (lane % 4 == i) stored[lane / 4 + i / 2 * 8][i % 2] = word;
    }
    return;
  }
  auto* const groups = reinterpret_cast<std::uint8_t*>(stored);
  const std::uint32_t beside = __shfl_xor_sync(kAllLanes, marks, 1);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    TilePlace at{};
    std::uint32_t group = 0;
    if constexpr (std::is_same_v<V, float>) {
      const int shift = 4 * i + lane % 2 * 16;
      at = TileBits<V>::place(lane, shift);
      const std::uint32_t mine = marks >> shift & 15u, other = beside >> shift & 15u;
      group = lane % 2 == 0 ? mine | other << 4 : other | mine << 4;
    } else if (layout == TileLayout::bitmap) {
      at = TileBits<V>::place(lane, i / 2 * 16 + i % 2 * 4);
      for (int e = 0; e < 8; ++e) {
        group |= (marks >> TileBits<V>::bit_of({at.row, at.col + e}) & 1u) << e;
      }
    } else {
      at = place_of_number(lane * 32 + i * 8);
      group = marks >> i * 8 & 255u;
    }
    groups[at.row * 8 + at.col / 8] = static_cast<std::uint8_t>(group);
  }
}

/// Goes through the entries of a warp's strip: move(at, p, gap, col) for each of a lane's, with its
/// place among the tiles' values and in the CSR matrix, how many elements lie between it and the
/// one before, and its column. Of deltas, skip(at) for each place that fills a gap.
template <class V, class Skip, class Move>
__device__ __forceinline__ void for_entries(const PackedView<V>& view, const std::uint32_t* marks,
                                            TileLayout layout, const Skip& skip, const Move& move) {
  __shared__ std::uint32_t stored[kPackWarps][kTileRows][2];  // the tile's bits by rows
  __shared__ int cursors[kPackWarps][kTileRows];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t strip = static_cast<std::int64_t>(blockIdx.x) * kPackWarps + warp;
  if (strip >= view.strips) return;
  const std::int64_t row = strip * kTileRows + lane;
  if (lane < kTileRows) cursors[warp][lane] = row < view.rows ? view.indptr[row] : 0;
  for (int slice = 0; slice < view.slices; ++slice) {
    const std::int64_t tile = strip * view.slices + slice;
    const std::uint32_t bits = marks[tile * 32 + lane];
    rows_of_marks<V>(bits, layout, lane, stored[warp]);
    __syncwarp();  // orders the writes of the rows before their reads
    int entry = 0, next = 0;
    LanePlaces places;
    if (layout == TileLayout::lanes) {
      places = LanePlaces(bits, lane);
    } else {
      const LaneEntries entries = entries_of(bits, layout, lane);
      entry = entries.before;
      next = entries.next;
    }
    const std::int64_t first = static_cast<std::int64_t>(view.starts[tile]) * kTileUnit;
    for (int k = 0; k < 32; ++k) {
      const int bit = layout == TileLayout::deltas ? k : TileBits<V>::in_order(k);
      if ((bits >> bit & 1u) == 0) continue;
      const TilePlace at = place_in<V>(layout, lane, bit);
      const std::uint32_t below = (1u << at.col % 32) - 1;
      const std::uint32_t (&words)[2] = stored[warp][at.row];
      const int rank =
          at.col < 32 ? __popc(words[0] & below) : __popc(words[0]) + __popc(words[1] & below);
      int gap = 0;
      if (layout == TileLayout::deltas) {
        gap = lane * 32 + bit - next;
        for (; gap > 255; gap -= 256) skip(first + entry++);
        next = lane * 32 + bit + 1;
      }
      const int place = layout == TileLayout::lanes ? places[entry] : entry;
      move(first + place, static_cast<std::int64_t>(cursors[warp][at.row]) + rank, gap,
           slice * kTileCols + at.col);
      ++entry;
    }
    __syncwarp();  // orders the reads of the cursors before their writes
    if (lane < kTileRows) {
      cursors[warp][lane] += __popc(stored[warp][lane][0]) + __popc(stored[warp][lane][1]);
    }
    __syncwarp();  // orders these reads and writes before the next tile's
  }
}

template <class V>
__global__ void __launch_bounds__(kPackThreads) pack_fill_strips(PackFillArgs<V> a) {
  const bool deltas = a.layout == TileLayout::deltas;
  for_entries(
      a.to, a.marks, a.layout,
      [&](std::int64_t at) {
        a.to.values[at] = V(0);
        a.to.deltas[at] = 255;
      },
      [&](std::int64_t at, std::int64_t p, int gap, int /*col*/) {
        const V value = a.values[p];
        a.to.values[at] = deltas && value == V(0) ? kStoredZero<V> : value;
        if (deltas) a.to.deltas[at] = static_cast<std::uint8_t>(gap);
      });
}

template <class V>
struct PackUnfillArgs {
  PackedView<V> from;
  const std::uint32_t* marks;  // [tiles, 32]
  TileLayout layout;
  int* indices;  // of the CSR matrix
  V* values;
};

/// The way back. A zero of deltas comes back as +0.
template <class V>
__global__ void __launch_bounds__(kPackThreads) pack_unfill_strips(PackUnfillArgs<V> a) {
  const bool deltas = a.layout == TileLayout::deltas;
  for_entries(
      a.from, a.marks, a.layout, [](std::int64_t) {},
      [&](std::int64_t at, std::int64_t p, int /*gap*/, int col) {
        const V value = a.from.values[at];
        a.indices[p] = col;
        a.values[p] = deltas && value == kStoredZero<V> ? V(0) : value;
      });
}

}  // namespace gossamer::cuda
