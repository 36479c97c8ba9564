#pragma once

// C = A·B for a packed A of half precision and up to 64 columns (more: pack_wide.cuh; of float32:
// pack_floats.cuh). The warps of
// a thread block have strips of 16 rows of A, and share the depth of a strip by turns. A warp reads
// a tile of 16 by 64, the loads of the next one under way, expands it into operands of tensor
// cores, and multiplies it by 64 rows of B, of which a lane reads eight neighbours of a column at
// once. The sums of a strip's warps are added through shared memory, in order; where there are few
// strips, those of thread blocks through the workspace.
//
// Bitmap, lanes: the values go to shared memory as pairs (v[i-1], v[i]). The pair that ends with a
// column's upper neighbour then has both values where they belong, and what is not stored is masked
// off: for two elements, the bits below them are counted, one word is loaded and one mask is made
// of two bits (6.5 instructions with the mask's shift, shared by two pairs). Lanes: the same, and
// each lane's pairs are in a bank of its own, so that look-ups do not meet. Deltas: a lane adds up
// four bytes, the warp the lanes, and each value is stored into a tile of zeros in shared memory,
// which lies in the order of the operands.
//
// Lanes take elements of B in another order: a lane reads those of up to 8 columns by words, and of
// more by eight neighbours of a copy in that order.
//
// What A does not store must not meet an infinity or NaN of B. A sum that is not finite is computed
// again from what is stored.

#include "base/kernels/epilogue.cuh"
#include "base/ptx.cuh"
#include "formats/packed/kernels/packed_tiles.cuh"
#include "products/kernels/wide_tile.cuh"

namespace gossamer::cuda {

inline constexpr int kPackedWarps = 8, kPackedThreads = 32 * kPackedWarps;
/// Columns of B that a thread block takes at most.
inline constexpr int kPackedColumns = kNarrowColumns;
/// Words of shared memory of a warp: the pairs of a tile, or its sums, or its elements and what
/// follows the last of them.
inline constexpr int kPackedWords = kTileSize + 8;

/// What the values of a packed matrix of T are moved as.
template <class T>
using PackedValue = std::conditional_t<std::is_same_v<T, float>, float, std::uint16_t>;

template <class T>
struct PackedArgs {
  PackedView<PackedValue<T>> a;
  const T* x;  // B(k, j) = x[j*ldx + k], zeros from A's last column to the tile's
  std::int64_t ldx;
  std::int64_t n;
  T* out;  // C(i, j) = out[i*out_row + j*out_col]
  std::int64_t out_row, out_col;
  Finish<T> finish;
  float* partial;  // [splits, rows, n], or null where there is one split
  int ways;        // warps of a strip
  int split;       // tiles of a strip that a thread block takes
  unsigned row_blocks;
};

/// What a warp of a thread block multiplies: `count` tiles of a strip, from tile `begin` on, by
/// some columns.
struct PackedShare {
  int strips, way, columns, first, last, begin, count;
  std::int64_t strip0, column0, strip;

  template <class T>
  __device__ __forceinline__ PackedShare(const PackedArgs<T>& a, int width, int warp)
      : strips(kPackedWarps / a.ways),
        way(warp % a.ways),
        first(static_cast<int>(blockIdx.y) * a.split),
        last(least(first + a.split, a.a.slices)),
        strip0(static_cast<std::int64_t>(blockIdx.x % a.row_blocks) * strips),
        column0(static_cast<std::int64_t>(blockIdx.x / a.row_blocks) * width),
        strip(strip0 + warp / a.ways) {
    columns = static_cast<int>(least<std::int64_t>(a.n - column0, width));
    // The warps of a strip have neighbouring parts of it.
    const int share = (last - first + a.ways - 1) / a.ways;
    begin = first + way * share;
    count = strip < a.a.strips ? largest(least(last - begin, share), 0) : 0;
  }
};

/// Adds the sums of each strip's warps, sum_of(warp, row*Width + column), and writes them out.
/// row_sum(tile, row, x) is the sum of what a row of a tile stores, times a column of B, of which x
/// points to the tile's part.
template <int Width, class T, class SumOf, class RowSum>
__device__ __forceinline__ void finish_strips(const PackedArgs<T>& a, const PackedShare& share,
                                              const SumOf& sum_of, const RowSum& row_sum) {
  const std::int64_t strip0 = share.strip0, column0 = share.column0;
  const int columns = share.columns;
  __syncthreads();  // orders the writes of the warps' sums before their reads
  for (int e = static_cast<int>(threadIdx.x); e < share.strips * kTileRows * Width;
       e += kPackedThreads) {
    // Neighbours in out are written by neighbouring threads.
    const int within = e % (kTileRows * Width), s = e / (kTileRows * Width);
    const bool down = a.out_row == 1 && a.partial == nullptr;
    const int r = down ? within % kTileRows : within / Width;
    const int c = down ? within / kTileRows : within % Width;
    const std::int64_t row = (strip0 + s) * kTileRows + r;
    if (c >= columns || row >= a.a.rows) continue;
    float sum = 0.0f;
    for (int w = 0; w < a.ways; ++w) sum += sum_of(s * a.ways + w, r * Width + c);
    if (!(sum - sum == 0.0f)) {
      sum = 0.0f;
      const T* const from = a.x + (column0 + c) * a.ldx;
      for (int k = share.first; k < share.last; ++k) {
        sum += row_sum((strip0 + s) * a.a.slices + k, r,
                       from + static_cast<std::int64_t>(k) * kTileCols);
      }
    }
    if (a.partial != nullptr) {
      a.partial[(static_cast<std::int64_t>(blockIdx.y) * a.a.rows + row) * a.n + column0 + c] = sum;
    } else {
      a.finish.store(a.out + row * a.out_row + (column0 + c) * a.out_col, sum, row);
    }
  }
}

__device__ inline float half_value(std::uint16_t bits, __half) {
  return __half2float(__ushort_as_half(bits));
}
__device__ inline float half_value(std::uint16_t bits, __nv_bfloat16) {
  return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
}

/// Makes operands of a lane's pairs, which lie `Step` words apart.
template <int Step>
__device__ __forceinline__ void expand_pairs(std::uint32_t bits, const SharedWords& mine,
                                             std::uint32_t (&a)[4][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const std::uint32_t shifted = bits << (7 - i);  // the pairs' bits are the highest of bytes
    const std::uint32_t masks[2] = {spread_signs<0x9988>(shifted), spread_signs<0xbbaa>(shifted)};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // The elements before the pair's upper one.
      const std::uint32_t within = ((2u << i) - 1) | ((1u << i) - 1) << 8;
      const std::uint32_t before = half == 0 ? within : 0xffffu | within << 16;
      a[half * 2 + i % 4 / 2][i / 4 + i % 2 * 2] =
          mine.load(Step * __popc(bits & before)) & masks[half];
    }
  }
}

/// A tile on its way through registers, and where the next one is. `count` tiles follow each other;
/// `more` says whether one follows that which is fetched.
template <TileLayout>
struct TileReader;

template <>
struct TileReader<TileLayout::bitmap> {
  static constexpr int kRounds = kTileSize / 128;

  const std::uint32_t* bits_at;
  const std::uint16_t* values_at;
  std::uint32_t bits;
  Pack<std::uint32_t, 2> words[kRounds];

  __device__ TileReader(const PackedView<std::uint16_t>& a, std::int64_t tile, int /*count*/,
                        int lane)
      : bits_at(a.bits + tile * 32 + lane), values_at(a.values + 4 * lane), bits(0), words{} {}

  /// Reads the next tile, whose units are [start, start + units).
  __device__ void fetch(int start, int units, bool /*more*/, int lane) {
    bits = units == 0 ? 0 : *bits_at;
    bits_at += 32;
    const auto* const from = reinterpret_cast<const std::uint32_t*>(
        values_at + static_cast<std::int64_t>(start) * kTileUnit);
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      if (i == kRounds / 2 && 16 * i >= units) break;
      if (32 * i + lane < 2 * units) words[i] = load_pack<2>(from + 64 * i);
    }
  }

  /// Writes the pairs to the warp's shared memory. What follows the tile's last round's is garbage.
  template <WideOrder = WideOrder::neighbours>
  __device__ void stage(std::uint32_t* /*shared*/, const SharedWords& words_of, int units,
                        int lane) const {
    const SharedWords mine = words_of.from(4 * lane);
    std::uint32_t before = 0;
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      if (16 * i >= units) break;
      // What a lane's values follow is in the lane before; for lane 0, that was the round before.
      const std::uint32_t low = words[i].at[0], high = words[i].at[1];
      const std::uint32_t left = __shfl_sync(kAllLanes, high, (lane + 31) % 32);
      const std::uint32_t pairs[4] = {__byte_perm(lane == 0 ? before : left, low, 0x5432), low,
                                      __byte_perm(low, high, 0x5432), high};
      mine.store_four(128 * i, pairs);
      before = left;
    }
    __syncwarp();  // orders the writes of the pairs before their reads
  }

  /// a[i][r] is register r of the lane's operand of product i of four. In natural order a lane
  /// needs pair t of each of the four lanes that it shares rows with: it looks for them with their
  /// bits.
  template <WideOrder Order = WideOrder::neighbours>
  __device__ static void expand(std::uint32_t bits, const std::uint32_t* /*shared*/,
                                const SharedWords& words_of, std::uint32_t (&a)[4][4]) {
    if constexpr (Order == WideOrder::natural) {
      const int t = static_cast<int>(threadIdx.x) % 4;
      std::uint32_t theirs[4];
      int counts[4], count = 0;
#pragma unroll
      for (int from = 0; from < 4; ++from) {
        theirs[from] = __shfl_sync(kAllLanes, bits, from, 4);
        counts[from] = __popc(theirs[from]);
        count += counts[from];
      }
      int first = sum_up_to<4>(count) - count;
#pragma unroll
      for (int from = 0; from < 4; ++from) {
        const SharedWords values = words_of.from(first);
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          const int i = 4 * row + t;
          const std::uint32_t shifted = theirs[from] << (7 - i);
          const std::uint32_t low = ((2u << i) - 1) | ((1u << i) - 1) << 8;
          const std::uint32_t high = 0xffffu | low << 16;
          const int at = row + from % 2 * 2;
          a[from / 2][at] = values.load(__popc(theirs[from] & low)) & spread_signs<0x9988>(shifted);
          a[2 + from / 2][at] =
              values.load(__popc(theirs[from] & high)) & spread_signs<0xbbaa>(shifted);
        }
        first += counts[from];
      }
    } else {
      const int count = __popc(bits);
      expand_pairs<1>(bits, words_of.from(sum_up_to(count) - count), a);
    }
    __syncwarp();  // orders these reads before the writes of the next tile
  }

  /// The sum of what row `row` of a tile stores, of T, times x(column).
  template <class T, class X>
  __device__ static float row_sum(const PackedView<std::uint16_t>& a, std::int64_t tile, int row,
                                  const X& x) {
    const std::uint16_t* const values =
        a.values + static_cast<std::int64_t>(a.starts[tile]) * kTileUnit;
    float sum = 0.0f;
    int entry = 0;
    for (int lane = 0; lane < 32; ++lane) {
      const std::uint32_t bits = a.bits[tile * 32 + lane];
      for (int k = 0; k < 32; ++k) {
        const int bit = TileBits<std::uint16_t>::in_order(k);
        if ((bits >> bit & 1u) == 0) continue;
        const TilePlace at = TileBits<std::uint16_t>::place(lane, bit);
        if (at.row == row) sum += half_value(values[entry], T()) * x(at.col);
        ++entry;
      }
    }
    return sum;
  }
};

template <>
struct TileReader<TileLayout::lanes> {
  const std::uint32_t* bits_at;
  const std::uint16_t* values;
  std::uint32_t bits, next;  // of this tile and of the one after it
  Pack<std::uint32_t, 4> eights[kTileEights];
  int most;  // fours of a lane

  __device__ TileReader(const PackedView<std::uint16_t>& a, std::int64_t tile, int count, int lane)
      : bits_at(a.bits + tile * 32 + lane),
        values(a.values),
        bits(0),
        next(count > 0 ? *bits_at : 0),
        eights{},
        most(0) {}

  /// Where a lane's values are depends on the bits, which are loaded one tile ahead.
  __device__ void fetch(int start, int /*units*/, bool more, int lane) {
    bits = next;
    bits_at += 32;
    if (more) next = *bits_at;
    const int count = __popc(bits);
    const unsigned below = (1u << lane) - 1;
    const int full = eights_of(__reduce_add_sync(kAllLanes, count));
    const auto* from = reinterpret_cast<const std::uint32_t*>(
        values + static_cast<std::int64_t>(start) * kTileUnit);
    most = 2 * full;
#pragma unroll
    for (int i = 0; i < kTileEights; ++i) {
      if (i < full) {
        eights[i] = load_pack<4>(from + 4 * lane);
        from += 128;
        continue;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bool has = count > 8 * i + 4 * half;
        const unsigned lanes = __ballot_sync(kAllLanes, has);
        if (lanes == 0) return;
        if (has) {
          const auto four = load_pack<2>(from + 2 * __popc(lanes & below));
          eights[i].at[2 * half] = four.at[0];
          eights[i].at[2 * half + 1] = four.at[1];
        }
        from += 2 * __popc(lanes);
        ++most;
      }
    }
  }

  /// Writes the pairs to the lane's column of the warp's shared memory.
  template <WideOrder>
  __device__ void stage(std::uint32_t* /*shared*/, const SharedWords& words_of, int /*units*/,
                        int lane) const {
    const SharedWords mine = words_of.from(lane);
    std::uint32_t before = 0;
#pragma unroll
    for (int c = 0; c < 2 * kTileEights; ++c) {
      const std::uint32_t low = eights[c / 2].at[c % 2 * 2], high = eights[c / 2].at[c % 2 * 2 + 1];
      mine.store(32 * (4 * c), __byte_perm(before, low, 0x5432));
      if (c == most) break;  // that was the pair that begins with the last value
      mine.store(32 * (4 * c + 1), low);
      mine.store(32 * (4 * c + 2), __byte_perm(low, high, 0x5432));
      mine.store(32 * (4 * c + 3), high);
      before = high;
    }
  }

  template <WideOrder>
  __device__ static void expand(std::uint32_t bits, const std::uint32_t* /*shared*/,
                                const SharedWords& words_of, std::uint32_t (&a)[4][4]) {
    expand_pairs<32>(bits, words_of.from(static_cast<int>(threadIdx.x) % 32), a);
    __syncwarp();  // orders these reads before what the shared memory is used for next
  }

  template <class T, class X>
  __device__ static float row_sum(const PackedView<std::uint16_t>& a, std::int64_t tile, int row,
                                  const X& x) {
    const std::uint16_t* values = a.values + static_cast<std::int64_t>(a.starts[tile]) * kTileUnit;
    const std::uint32_t* const bits = a.bits + tile * 32;
    int total = 0;
    for (int lane = 0; lane < 32; ++lane) total += __popc(bits[lane]);
    const int full = 8 * eights_of(total);
    float sum = 0.0f;
    for (int first = 0; first < 32;) {
      const int group = first < full ? 8 : 4;
      for (int lane = 0; lane < 32; ++lane) {
        if (first >= full && __popc(bits[lane]) <= first) continue;
        int entry = -first;  // of the group
        for (int k = 0; k < 32; ++k) {
          const int bit = LaneBits::in_order(k);
          if ((bits[lane] >> bit & 1u) == 0) continue;
          const TilePlace at = LaneBits::place(lane, bit);
          if (at.row == row && entry >= 0 && entry < group) {
            sum += half_value(values[entry], T()) * x(at.col);
          }
          ++entry;
        }
        values += group;
      }
      first += group;
    }
    return sum;
  }
};

template <>
struct TileReader<TileLayout::deltas> {
  static constexpr int kHeld = 2;  // rounds of 128 entries that are in registers
  static constexpr std::uint32_t bits = 0;

  const std::uint16_t* values;  // of the matrix, from the lane's first on
  const std::uint8_t* deltas;
  int start;
  Pack<std::uint32_t, 2> words[kHeld];
  std::uint32_t steps[kHeld];

  __device__ TileReader(const PackedView<std::uint16_t>& a, std::int64_t /*tile*/, int /*count*/,
                        int lane)
      : values(a.values + 4 * lane), deltas(a.deltas + 4 * lane), start(0) {}

  __device__ void fetch(int first, int units, bool /*more*/, int lane) {
    start = first;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) load(i, units, lane, words[i], steps[i]);
  }

  __device__ void load(int round, int units, int lane, Pack<std::uint32_t, 2>& word,
                       std::uint32_t& step) const {
    if (32 * round + lane >= 2 * units) return;
    const std::int64_t at = static_cast<std::int64_t>(start) * kTileUnit + 128 * round;
    word = load_pack<2>(reinterpret_cast<const std::uint32_t*>(values + at));
    step = *reinterpret_cast<const std::uint32_t*>(deltas + at);
  }

  /// Writes the values into a tile of zeros. For natural order, groups of eight are moved so that
  /// the eight that an ldmatrix reads are in different banks.
  template <WideOrder Order = WideOrder::neighbours>
  __device__ void stage(std::uint32_t* shared, const SharedWords& words_of, int units,
                        int lane) const {
    auto* const tile = reinterpret_cast<std::uint16_t*>(shared);
    const SharedWords mine = words_of.from(4 * lane);
#pragma unroll
    for (int i = 0; i < 4; ++i) mine.store_four(128 * i, {0, 0, 0, 0});
    __syncwarp();  // orders the zeros before the values
    unsigned at = 0;
    const auto scatter = [&](int round, const Pack<std::uint32_t, 2>& word, std::uint32_t step) {
      const bool any = 32 * round + lane < 2 * units;
      const int total = any ? static_cast<int>(__dp4a(step, 0x01010101u, 4u)) : 0;
      const auto after = at + static_cast<unsigned>(sum_up_to(total));
      const auto put = [&](unsigned number, std::uint32_t value) {
        if (Order == WideOrder::natural) number ^= number >> 3 & 24u;
        tile[number] = static_cast<std::uint16_t>(value);
      };
      if (any) {
        const unsigned begin = after - static_cast<unsigned>(total);
        put(__dp4a(step, 0x00000001u, begin), word.at[0]);
        put(__dp4a(step, 0x00000101u, begin) + 1, word.at[0] >> 16);
        put(__dp4a(step, 0x00010101u, begin) + 2, word.at[1]);
        put(__dp4a(step, 0x01010101u, begin) + 3, word.at[1] >> 16);
      }
      at = __shfl_sync(kAllLanes, after, 31);
    };
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (16 * i < units) scatter(i, words[i], steps[i]);
    }
    for (int i = kHeld; 16 * i < units; ++i) {
      Pack<std::uint32_t, 2> word{};
      std::uint32_t step = 0;
      load(i, units, lane, word, step);
      scatter(i, word, step);
    }
    __syncwarp();  // orders the values before their reads
  }

  template <WideOrder Order = WideOrder::neighbours>
  __device__ static void expand(std::uint32_t /*bits*/, const std::uint32_t* shared,
                                const SharedWords& /*words_of*/, std::uint32_t (&a)[4][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if constexpr (Order == WideOrder::natural) {
      // Lane 8w + j gives the address of row j of the matrix that becomes word w: eight columns of
      // row j or, for an odd w, j + 8.
      const int j = lane % 8, w = lane / 8;
      const auto* const tile = reinterpret_cast<const std::uint16_t*>(shared);
      const int number = w % 2 * 256 + j * 32 + w / 2 * 8;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        ldmatrix_x4(a[i], tile + i / 2 * 512 + ((number + i % 2 * 16) ^ (j / 2 * 8)));
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto eight = load_pack<4>(shared + 128 * i + 4 * lane);
#pragma unroll
        for (int j = 0; j < 4; ++j) a[i / 2 * 2 + j / 2][i % 2 + j % 2 * 2] = eight.at[j];
      }
    }
    __syncwarp();  // orders these reads before the zeros of the next tile
  }

  template <class T, class X>
  __device__ static float row_sum(const PackedView<std::uint16_t>& a, std::int64_t tile, int row,
                                  const X& x) {
    const std::int64_t end = static_cast<std::int64_t>(a.starts[tile + 1]) * kTileUnit;
    float sum = 0.0f;
    int next = 0;
    for (std::int64_t e = static_cast<std::int64_t>(a.starts[tile]) * kTileUnit; e < end; ++e) {
      const int number = next + a.deltas[e];
      next = number + 1;
      if (a.values[e] == 0) continue;  // no entry
      const TilePlace at = place_of_number(number);
      if (at.row == row) sum += half_value(a.values[e], T()) * x(at.col);
    }
    return sum;
  }
};

/// Which elements a lane has of its rows.
__host__ __device__ constexpr WideOrder order_of(TileLayout layout) {
  return layout == TileLayout::lanes ? WideOrder::natural : WideOrder::neighbours;
}

/// In natural order a lane has two of each eight elements of a column, of 32 bits together. Wide
/// loads of them are of a column in which those of a lane are neighbours: element `k` of 32 is
/// here.
__host__ __device__ constexpr int dealt(int k) {
  return k & ~31 | k % 8 / 2 * 8 | k % 32 / 8 * 2 | k % 2;
}

/// Whether columns of B are read in that order, to which they are copied.
__host__ __device__ constexpr bool deals(TileLayout layout, std::int64_t columns) {
  return order_of(layout) == WideOrder::natural && columns > 8 && columns <= kPackedColumns;
}

/// Eight elements of a column of B in each half of a tile's depth: neighbours, or two of each
/// eight.
template <WideOrder Order, class T>
__device__ inline void load_columns(const T* x, bool valid, Pack<std::uint32_t, 4> (&b)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const auto* const from = reinterpret_cast<const std::uint32_t*>(x + 32 * half);
    b[half] = {};
    if (!valid) continue;
    if constexpr (Order == WideOrder::neighbours) {
      b[half] = load_pack<4>(from);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) b[half].at[i] = from[4 * i];
    }
  }
}

/// Blocks of eight columns.
template <class T, TileLayout Layout, int Blocks>
__global__ void __launch_bounds__(kPackedThreads, Blocks == 1 ? 3 : 2)
    pack_product(PackedArgs<T> a) {
  constexpr int kWidth = 8 * Blocks;
  constexpr bool kDealt = deals(Layout, kWidth);
  constexpr WideOrder kOrder = order_of(Layout);
  constexpr WideOrder kColumnOrder = kDealt ? WideOrder::neighbours : kOrder;
  __shared__ __align__(16) std::uint32_t shared[kPackedWarps][kPackedWords];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const PackedShare share(a, kWidth, warp);
  const std::int64_t column0 = share.column0;
  const int columns = share.columns, begin = share.begin, count = share.count;

  float sums[Blocks][4] = {};
  if (count > 0) {
    const std::int64_t tile0 = share.strip * a.a.slices + begin;
    const int* starts = a.a.starts + tile0;
    int from = starts[0], to = starts[1], after = starts[least(count, 2)];
    TileReader<Layout> tile(a.a, tile0, count, lane);
    tile.fetch(from, to - from, count > 1, lane);
    const SharedWords words_of(shared[warp]);
    const int column = lane / 4, valid = held(columns - column);  // in the first block, if positive
    const T* x = a.x + (column0 + column) * a.ldx + static_cast<std::int64_t>(begin) * kTileCols +
                 lane % 4 * (kColumnOrder == WideOrder::natural ? 2 : 8);
    for (int left = count; left > 0; --left) {
      const int units = to - from;
      Pack<std::uint32_t, 4> b[2];
      if (units != 0) {
        load_columns<kColumnOrder>(x, valid > 0, b);
        tile.template stage<kOrder>(shared[warp], words_of, units, lane);
      }
      const std::uint32_t bits = tile.bits;
      if (left > 1) tile.fetch(to, after - to, left > 2, lane);
      from = to;
      to = after;
      if (left > 2) after = starts[3];
      ++starts;
      if (units != 0) {
        std::uint32_t operands[4][4];
        TileReader<Layout>::template expand<kOrder>(bits, shared[warp], words_of, operands);
#pragma unroll
        for (int c = 0; c < Blocks; ++c) {
          if (Blocks > 1 && 8 * c >= columns) break;
          if (c != 0) load_columns<kColumnOrder>(x + 8 * c * a.ldx, valid > 8 * c, b);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const std::uint32_t right[2] = {b[i / 2].at[i % 2 * 2], b[i / 2].at[i % 2 * 2 + 1]};
            mma_m16n8k16<T>(sums[c], operands[i], right);
          }
        }
      }
      x += kTileCols;
    }
  }

#pragma unroll
  for (int c = 0; c < Blocks; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, at = row * kWidth + 8 * c + lane % 4 * 2 + i % 2;
      shared[warp][at] = __float_as_uint(sums[c][i]);
    }
  }
  const auto sum_of = [&](int of, int at) { return __uint_as_float(shared[of][at]); };
  finish_strips<kWidth>(a, share, sum_of, [&](std::int64_t tile, int row, const T* column_of) {
    return TileReader<Layout>::template row_sum<T>(
        a.a, tile, row, [&](int k) { return widen(column_of[kDealt ? dealt(k) : k]); });
  });
}

/// to[j*padded + k] = B(k, j), 0 for K ≤ k < padded: columns that can be read eight at a time. If
/// they are dealt, element dealt(k) of `to` is that of k.
template <class U>
struct PackColumnArgs {
  const U* from;  // B(k, j) = from[k*row + j*col]
  std::int64_t row, col;
  std::int64_t k, n, padded;
  bool deal;
  U* to;
};

inline constexpr int kPackColumnThreads = 256;

/// U has the size of the elements.
template <class U>
__global__ void __launch_bounds__(kPackColumnThreads) pack_column_tiles(PackColumnArgs<U> a) {
  __shared__ U tile[kTileCols][kTileCols + 2];
  const bool by_rows = a.col == 1 && a.row != 1;
  const std::int64_t k0 = static_cast<std::int64_t>(blockIdx.x) * kTileCols;
  for (std::int64_t j0 = static_cast<std::int64_t>(blockIdx.y) * kTileCols; j0 < a.n;
       j0 += static_cast<std::int64_t>(gridDim.y) * kTileCols) {
    for (int i = static_cast<int>(threadIdx.x); i < kTileCols * kTileCols;
         i += kPackColumnThreads) {
      // Neighbouring threads read neighbours.
      const int k = by_rows ? i / kTileCols : i % kTileCols;
      const int j = by_rows ? i % kTileCols : i / kTileCols;
      const bool valid = k0 + k < a.k && j0 + j < a.n;
      tile[j][k] = valid ? a.from[(k0 + k) * a.row + (j0 + j) * a.col] : U(0);
    }
    __syncthreads();  // orders the writes of the tile before its reads
    for (int i = static_cast<int>(threadIdx.x); i < kTileCols * kTileCols;
         i += kPackColumnThreads) {
      const int k = i % kTileCols, j = i / kTileCols;
      // dealt() is its own inverse.
      if (j0 + j < a.n) a.to[(j0 + j) * a.padded + k0 + k] = tile[j][a.deal ? dealt(k) : k];
    }
    __syncthreads();  // orders these reads before the writes of the next tile
  }
}

}  // namespace gossamer::cuda
