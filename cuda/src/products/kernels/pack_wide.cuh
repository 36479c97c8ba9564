#pragma once

// C = A·B for a packed A of half precision and more columns than pack_product takes at once; by
// Hopper's wgmma: pack_wgmma.cuh. A thread block computes 128 by 256 elements of C. Each of its
// eight warps expands the tile of 16 by 64 of one strip into shared memory while slices of B are
// copied there, and multiplies 64 by 64 elements of the slice before. Of the two warps that issue
// on the same quarter of a multiprocessor, one expands while the other multiplies. So a tile is
// expanded once for 256 columns. Where C has few tiles, several thread blocks share the slices of
// one.
//
// A slice of A lies in shared memory by strips, products m16n8k16 and lanes, so that an operand of
// a lane is one read of 16 bytes.

#include "products/kernels/mma_output.cuh"
#include "products/kernels/pack_product.cuh"
#include "products/kernels/wide_tile.cuh"

namespace gossamer::cuda {

inline constexpr int kPackWideStrips = 8, kPackWideRows = kPackWideStrips * kTileRows;
inline constexpr int kPackWideThreads = 32 * kPackWideStrips;

/// The parts of shared memory, in elements of 2 bytes: a ring of slices of B, two slices of A, and
/// what each warp expands a tile with.
struct PackWideShared {
  static constexpr int kStages = 3;
  static constexpr int kHalfB = kWideColumns * kWideDepth, kB = 2 * kHalfB;
  static constexpr int kProductA = kTileRows * 16, kHalfA = 2 * kProductA, kStripA = 2 * kHalfA;
  static constexpr int kA = kPackWideStrips * kStripA;
  static constexpr int kWarp = 2 * kPackedWords;
  static constexpr int kRing = 2 * (kStages * kB + 2 * kA + kPackWideStrips * kWarp);
  static constexpr int kSums = kPackWideRows * kWidePitch * 4;
  static constexpr int kBytes = kRing > kSums ? kRing : kSums;
  static_assert(2 * kWideDepth == kTileCols && kStripA == kTileSize);
  static_assert(kBytes <= 163 * 1024, "what a block may have on sm_80");
};

template <class T>
struct PackWideArgs {
  PackedView<std::uint16_t> a;
  const T* b;
  std::int64_t ldb;
  std::int64_t k;
  bool
      along;  // B(k, j) = b[j*ldb + k], zeros from A's last column to the tile's; else b[k*ldb + j]
  MmaOutput<T> to;
  bool down;  // C is stored as [n, m]
  unsigned row_tiles;
  int split;  // slices that a thread block takes
};

/// The tiles of a strip from `tile0` on. The next one is in registers when it is expanded.
template <TileLayout Layout>
class StripTiles {
 public:
  __device__ __forceinline__ StripTiles(const PackedView<std::uint16_t>& a, std::int64_t tile0,
                                        int count, int lane)
      : tile_(a, tile0, count, lane), starts_(a.starts + tile0), left_(count) {
    if (count == 0) return;
    end_ = starts_[1];
    after_ = starts_[least(count, 2)];
    units_ = end_ - starts_[0];
    tile_.fetch(starts_[0], units_, count > 1, lane);
  }

  /// Expands the next tile, or zeros where there is none. `shared`: kPackedWords of the warp's own.
  template <WideOrder Order>
  __device__ __forceinline__ void expand(std::uint32_t* shared, int lane,
                                         std::uint32_t (&operands)[4][4]) {
    const int staged = units_;
    const SharedWords words_of(shared);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int w = 0; w < 4; ++w) operands[i][w] = 0;
    }
    if (staged != 0) tile_.template stage<Order>(shared, words_of, staged, lane);
    const std::uint32_t bits = tile_.bits;
    units_ = after_ - end_;
    if (left_ > 1) tile_.fetch(end_, units_, left_ > 2, lane);
    end_ = after_;
    if (left_ > 2) after_ = starts_[3];
    ++starts_;
    --left_;
    if (staged != 0) TileReader<Layout>::template expand<Order>(bits, shared, words_of, operands);
  }

 private:
  TileReader<Layout> tile_;
  const int* starts_;
  int left_, end_ = 0, after_ = 0, units_ = 0;  // where this tile and the next one end
};

/// The last step: computes again what is not finite among a tile of sums, from what A stores, and
/// writes the tile to C. `zero` is 0 times the thread's sums, added up: NaN if one is not finite.
template <int Threads, TileLayout Layout, class T>
__device__ __forceinline__ void finish_tile(const PackWideArgs<T>& args, float* sums_of, float zero,
                                            std::int64_t row0, std::int64_t column0, int first,
                                            int last, int thread) {
  const std::int64_t rows = args.to.m - row0, columns = args.to.n - column0;
  if (!__syncthreads_and(zero == 0.0f)) {  // orders the writes of all sums before their reads
    for (int e = thread; e < kPackWideRows * kWideColumns; e += Threads) {
      const int r = e / kWideColumns, c = e % kWideColumns;
      float& sum = sums_of[r * kWidePitch + c];
      if (r >= rows || c >= columns || sum - sum == 0.0f) continue;
      sum = 0.0f;
      for (int k = first; k < last; ++k) {
        const std::int64_t k0 = static_cast<std::int64_t>(k) * kTileCols;
        const T* const from =
            args.b + (args.along ? (column0 + c) * args.ldb + k0 : k0 * args.ldb + column0 + c);
        const std::int64_t step = args.along ? 1 : args.ldb;
        sum += TileReader<Layout>::template row_sum<T>(
            args.a, (row0 + r) / kTileRows * args.a.slices + k, r % kTileRows,
            [&](int col) { return widen(from[col * step]); });
      }
    }
    __syncthreads();  // orders these writes before the reads of all sums
  }
  constexpr SumsTile kShape(kPackWideRows, kWideColumns, kWidePitch);
  store_tile(args.to, args.down, kShape, sums_of, row0, column0, thread, Threads);
}

template <class T, TileLayout Layout>
__global__ void __launch_bounds__(kPackWideThreads, 1) pack_wide(const PackWideArgs<T> args) {
  using Shared = PackWideShared;
  constexpr WideOrder kOrder = order_of(Layout);
  T* const ring = dynamic_shared<T>();
  T* const slices_a = ring + Shared::kStages * Shared::kB;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int warp_row = warp / 4 * kWideSide, warp_column = warp % 4 * kWideSide;
  // Neighbouring thread blocks have different rows and the same columns, so they share rows of B.
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x % args.row_tiles) * kPackWideRows;
  const std::int64_t column0 =
      static_cast<std::int64_t>(blockIdx.x / args.row_tiles) * kWideColumns;
  const std::int64_t rows = args.to.m - row0, columns = args.to.n - column0;
  const int first = static_cast<int>(blockIdx.y) * args.split;
  const int last = least(first + args.split, args.a.slices);

  int next_slice = first;
  T* next_stage = ring;
  const auto load = [&] {
    if (next_slice < last) {
      const std::int64_t k = static_cast<std::int64_t>(next_slice) * kTileCols;
      const T* const from = args.b + (args.along ? column0 * args.ldb + k : k * args.ldb + column0);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        copy_slice<kOrder, kWideColumns, kPackWideThreads>(
            args.along, next_stage + half * Shared::kHalfB,
            from + half * kWideDepth * (args.along ? 1 : args.ldb), args.ldb, columns,
            args.k - k - half * kWideDepth, thread);
      }
      next_stage += Shared::kB;
      if (next_stage == slices_a) next_stage = ring;
      ++next_slice;
    }
    // Each slice has a group, at the end an empty one, so that waiting counts slices.
    cp_async_commit();
  };

  const std::int64_t strip = row0 / kTileRows + warp;
  StripTiles<Layout> tiles(args.a, strip * args.a.slices + first,
                           strip < args.a.strips ? last - first : 0, lane);
  const auto expand = [&](T* slice) {
    auto* const to = reinterpret_cast<std::uint32_t*>(slice + warp * Shared::kStripA);
    auto* const shared =
        reinterpret_cast<std::uint32_t*>(slices_a + 2 * Shared::kA + warp * Shared::kWarp);
    std::uint32_t operands[4][4];
    tiles.template expand<kOrder>(shared, lane, operands);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto& words = operands[i];
      store_pack<4>(to + 128 * i + 4 * lane,
                    Pack<std::uint32_t, 4>{{words[0], words[1], words[2], words[3]}});
    }
  };

  WideSums sums = {};
  load();
  const T* stage = ring;
  int slice_a = 0;
#pragma unroll 1
  for (int i = -1; i < last - first; ++i) {
    cp_async_wait<Shared::kStages - 2>();
    __syncthreads();  // orders all threads' copies of this slice of B and the expanded tiles before
                      // their reads, and the last reads of the stages that are written next
    load();
#pragma unroll 1
    for (int phase = 0; phase < 2; ++phase) {
      if (phase == warp / 4) {
        if (i + 1 < last - first) {
          expand(slices_a + (slice_a ^ Shared::kA));
        }
      } else if (i >= 0 && warp_column < columns && warp_row < rows) {
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
          const T* const a = slices_a + slice_a + warp_row / kTileRows * Shared::kStripA +
                             half * Shared::kHalfA + lane * 8;
          std::uint32_t right[kWideSide / 8][4];
          load_right<kOrder, kWideColumns>(args.along, stage + half * Shared::kHalfB,
                                           warp_column / 8, lane, right);
          const auto load_left = [&](int r, int product, std::uint32_t (&left)[4]) {
            const auto four = load_pack<4>(reinterpret_cast<const std::uint32_t*>(
                a + r * Shared::kStripA + product * Shared::kProductA));
#pragma unroll
            for (int w = 0; w < 4; ++w) left[w] = four.at[w];
          };
          multiply_slice<T>(load_left, right, sums);
        }
      }
    }
    slice_a ^= Shared::kA;
    if (i < 0) continue;
    stage += Shared::kB;
    if (stage == slices_a) stage = ring;
  }
  cp_async_wait<0>();
  __syncthreads();  // orders the reads of the slices before their memory is used for the sums

  float* const sums_of = reinterpret_cast<float*>(ring);
  spread_sums(sums, sums_of + warp_row * kWidePitch + warp_column, lane);
  float zero = 0.0f;
#pragma unroll
  for (int r = 0; r < kWideSide / 16; ++r) {
#pragma unroll
    for (int c = 0; c < kWideSide / 8; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        zero = fmaf(sums[r][c][i], 0.0f, zero);  // NaN of what is not finite
    }
  }
  finish_tile<kPackWideThreads, Layout>(args, sums_of, zero, row0, column0, first, last, thread);
}

}  // namespace gossamer::cuda
