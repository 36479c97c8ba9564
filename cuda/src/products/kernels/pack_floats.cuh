#pragma once

// C = A·B for a packed A of float32, whose tiles are bitmaps: by fused multiply-adds, in float32.
//
// Up to 16 columns at a time: strips of A are shared as in pack_product. A warp copies the values
// of a tile to shared memory, those of the next one under way, and each lane fetches those of its
// 32 elements, eight rows by four columns, to registers, so that four elements of B meet eight
// rows: shared memory is read by the lanes that have an entry alone, 32 times a tile, and the
// multiply-adds are as many as those of a dense product. The sums of the 16 lanes that share rows
// are added at the end.
//
// More columns: slices of A as dense tiles (decoded.cuh).
//
// What A does not store must not meet an infinity or NaN of B: it is +0 here, and a sum that is not
// finite is computed again.

#include "base/kernels/warp.cuh"
#include "products/kernels/decoded.cuh"
#include "products/kernels/pack_product.cuh"

namespace gossamer::cuda {

/// Columns of B that a thread block takes at most.
inline constexpr int kFloatColumns = 16;
/// Dynamic shared memory: two tiles' values for each warp, or its sums.
inline constexpr int kFloatBytes = kPackedWarps * 2 * kTileSize * 4;

/// Whether a tile of so many units has all its elements. Its lanes would all read one bank: their
/// groups of four are stored in an order by which eight lanes read different ones.
__device__ __forceinline__ bool is_full(int units) { return kTileUnit * units > kTileSize; }

/// Starts to copy the values of a tile, whose units begin at `values`.
__device__ __forceinline__ void copy_values(float* shared, const float* values, int units,
                                            int lane) {
  const bool full = is_full(units);
#pragma unroll
  for (int i = 0; i < kTileSize / 128; ++i) {
    if (16 * i >= units) break;
    if (32 * i + lane >= units * (kTileUnit / 4)) continue;
    // Group 8k + j of four goes to place 8k + (j ^ k % 8).
    const unsigned own = static_cast<unsigned>(lane);
    const unsigned place = full ? own ^ (own / 8 + i % 2 * 4) : own;
    cp_async<16>(shared + 128 * i + 4 * place, values + 128 * i + 4 * own);
  }
}

/// A lane's elements of a tile, whose values are in shared memory; +0 where there is no entry.
__device__ __forceinline__ void expand_floats(std::uint32_t bits, const float* shared, int units,
                                              int lane, float (&w)[32]) {
  if (is_full(units)) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const auto four = load_pack<4>(shared + 32 * lane + 4 * (i ^ (lane % 8)));
#pragma unroll
      for (int e = 0; e < 4; ++e) w[4 * i + e] = four.at[e];
    }
    return;
  }
  const int count = __popc(bits);
  const float* next = shared + (sum_up_to(count) - count);
#pragma unroll
  for (int k = 0; k < 32; ++k) {
    w[k] = 0.0f;
    if ((bits >> k & 1u) != 0) w[k] = *next++;
  }
}

/// The sum of what row `row` of a tile stores, times x.
__device__ inline float row_sum_of(const PackedView<float>& a, std::int64_t tile, int row,
                                   const float* x) {
  const float* value = a.values + static_cast<std::int64_t>(a.starts[tile]) * kTileUnit;
  float sum = 0.0f;
  for (int lane = 0; lane < 32; ++lane) {
    for (std::uint32_t bits = a.bits[tile * 32 + lane]; bits != 0; bits &= bits - 1, ++value) {
      const TilePlace at = TileBits<float>::place(lane, __ffs(static_cast<int>(bits)) - 1);
      if (at.row == row) sum = fmaf(*value, x[at.col], sum);
    }
  }
  return sum;
}

template <int Columns>
__global__ void __launch_bounds__(kPackedThreads, Columns == 1   ? 3
                                                  : Columns <= 8 ? 2
                                                                 : 1)
    pack_floats(PackedArgs<float> a) {
  constexpr int kRows = kTileRows / 2;  // of a lane
  float* const shared = dynamic_shared<float>();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const PackedShare share(a, Columns, warp);

  float sums[Columns][kRows] = {};
  if (share.count > 0) {
    const std::int64_t tile0 = share.strip * a.a.slices + share.begin;
    const int* starts = a.a.starts + tile0;
    const std::uint32_t* bits_at = a.a.bits + tile0 * 32 + lane;
    const float* x = a.x + share.column0 * a.ldx +
                     static_cast<std::int64_t>(share.begin) * kTileCols + lane % 16 * 4;
    float* const staged = shared + warp * 2 * kTileSize;
    int from = starts[0], to = starts[1], after = starts[least(share.count, 2)], stage = 0;
    const auto copy = [&](int place, int start, int units) {
      copy_values(staged + place, a.a.values + static_cast<std::int64_t>(start) * kTileUnit, units,
                  lane);
    };
    copy(0, from, to - from);
    cp_async_commit();
    std::uint32_t bits = *bits_at;
    for (int left = share.count; left > 0; --left) {
      const int units = to - from;
      std::uint32_t next_bits = 0;
      if (left > 1) {
        copy(stage ^ kTileSize, to, after - to);
        bits_at += 32;
        next_bits = *bits_at;
      }
      // Each tile has a group, at the end an empty one, so that waiting counts tiles.
      cp_async_commit();
      cp_async_wait<1>();
      __syncwarp();  // orders all lanes' copies of this tile's values before their reads
      if (units != 0) {
        float w[32];
        expand_floats(bits, staged + stage, units, lane, w);
#pragma unroll
        for (int c = 0; c < Columns; ++c) {
          if (Columns > 1 && c >= share.columns) break;
          const auto four = load_pack<4>(x + c * a.ldx);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              sums[c][r] = fmaf(w[4 * r + e], four.at[e], sums[c][r]);
            }
          }
        }
      }
      __syncwarp();  // orders these reads before the copies of the tile after the next one
      bits = next_bits;
      stage ^= kTileSize;
      from = to;
      to = after;
      if (left > 2) after = starts[3];
      ++starts;
      x += kTileCols;
    }
  }
  cp_async_wait<0>();
  __syncthreads();  // orders the reads of the values before their memory is used for the sums

  constexpr int kSums = kTileRows * Columns;
#pragma unroll
  for (int c = 0; c < Columns; ++c) {
    const float sum = reduce_many(sums[c], 16, lane);
    const int row = lane / 16 * kRows + summand_of<kRows>(lane);
    if (lane % 16 < kRows) shared[warp * kSums + row * Columns + c] = sum;
  }
  const auto sum_of = [&](int of, int at) { return shared[of * kSums + at]; };
  finish_strips<Columns>(a, share, sum_of, [&](std::int64_t tile, int row, const float* x) {
    return row_sum_of(a.a, tile, row, x);
  });
}

/// Slices of a packed matrix as dense tiles, for products of more columns. A warp writes a tile of
/// 16 by 64.
struct PackedDecoder {
  PackedView<float> a;

  __device__ void decode(float* tile, std::int64_t row0, int slice, int thread) const {
    using Tile = DecodedTile<float>;
    static_assert(Tile::kDepth == kTileCols && kDecodedThreads / 32 * kTileRows == kDecodedSide);
    const int lane = thread % 32, warp = thread / 32;
    const std::int64_t strip = row0 / kTileRows + warp;
    if (strip >= a.strips) return;
    const std::int64_t at = strip * a.slices + slice;
    const int start = a.starts[at], units = a.starts[at + 1] - start;
    const std::uint32_t bits = a.bits[at * 32 + lane];
    // The values come to where the elements go.
    float* const rows = tile + warp * kTileRows * Tile::kPitchA;
    copy_values(rows, a.values + static_cast<std::int64_t>(start) * kTileUnit, units, lane);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();  // orders all lanes' copies of the values before their reads
    float w[32];
    expand_floats(bits, rows, units, lane, w);
    __syncwarp();  // orders the reads of the values before their memory is used for the elements
#pragma unroll
    for (int r = 0; r < kTileRows / 2; ++r) {
      Pack<float, 4> four;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float value = w[4 * r + e];
        four.at[e] = (bits >> (4 * r + e) & 1u) != 0 ? stored(value) : value;
      }
      store_pack<4>(rows + (lane / 16 * 8 + r) * Tile::kPitchA + lane % 16 * 4, four);
    }
  }
};

}  // namespace gossamer::cuda
