#pragma once

// C = A·B on sparse tensor cores, for an N:M matrix A of half precision whose rows are lines. A
// thread block computes 128 by 128 elements of C, a warp 64 by 32 of these. It goes along the lines
// in slices of 64 elements, for which 32 values are multiplied; asynchronous copies bring values,
// their positions and the slice of B into a ring of stages while the oldest stage is multiplied.
// Where C has few tiles, several blocks share the slices of one, as with decoded tiles
// (decoded.cuh).
//
// Of 2:4 nothing is decoded: values lie in memory as the fragments of mma.sp want them, and so do
// their positions, four bits for each group of four. Two 16-bit reads give a thread the positions
// of 16 elements of two rows: threads 0 and 1 of each four those of the first 32 elements of the
// slice, threads 2 and 3 those of the other 32. What A does not store meets no element of B. Other
// patterns are spread in shared memory (nm_pairs.cuh), by each thread what it copied.
//
// For a slice a warp issues 8 ldmatrix of A, 8 of B and 32 mma.sp, each of which does the work of
// two dense products.

#include "formats/nm/kernels/nm_positions.cuh"
#include "products/kernels/bsr_mma.cuh"
#include "products/kernels/mma_output.cuh"
#include "products/kernels/nm_pairs.cuh"

namespace gossamer::cuda {

/// Rows and columns of a tile of C, and elements of a line in a slice.
inline constexpr int kNmMmaSide = 128, kNmMmaDepth = 64;
inline constexpr int kNmMmaThreads = 256;

/// The parts of a stage, in elements of 2 bytes. B is [depth, columns], or [columns, depth] where
/// it is stored by columns. Behind the stages is the table by which pairs are spread.
template <bool ByColumns, bool Spread>
struct NmMmaTile {
  static constexpr int kStages = 3;
  static constexpr int kStored = kNmMmaDepth / 2;
  static constexpr int kPad = 8;  // puts the eight rows of an ldmatrix into different banks
  static constexpr int kPitchA = kStored + kPad;
  // Of a line in a slice. Where they are spread, each half begins with room for two words.
  static constexpr int kCodeBytes = kNmMmaDepth / (Spread ? 4 : 8);
  static constexpr int kRowsB = ByColumns ? kNmMmaSide : kNmMmaDepth;
  static constexpr int kLengthB = ByColumns ? kNmMmaDepth : kNmMmaSide;
  static constexpr int kPitchB = kLengthB + kPad;
  static constexpr int kB = kNmMmaSide * kPitchA;  // where it begins in a stage
  static constexpr int kCodes = kB + kRowsB * kPitchB;
  static constexpr int kStageElements = kCodes + kNmMmaSide * kCodeBytes / 2;
  static constexpr int kPitchSums = kNmMmaSide + 4;
  static constexpr int kTable = kStages * kStageElements;
  static constexpr int kRing = kTable * 2 + (Spread ? kNmTableBytes : 0);
  static constexpr int kSums = kNmMmaSide * kPitchSums * 4;
  static constexpr int kShared = kRing > kSums ? kRing : kSums;
  static_assert(kB * 2 % 16 == 0 && kCodes * 2 % 16 == 0 && kStageElements * 2 % 16 == 0,
                "ldmatrix and 16-byte copies need rows at multiples of 16 bytes");
};

template <class T>
struct NmMmaArgs {
  NmLines a;
  const T* b;
  std::int64_t ldb;
  MmaOutput<T> to;
  unsigned row_tiles;
  int slices, split;  // how many there are, and how many a thread block takes
  NmPairCut pairs;    // where they are spread
  bool wide;  // whether B and values of 2:4 can be copied 16 bytes at a time, their positions 8
};

/// Copies slice after slice into stages, 16 bytes of values and of B at a time: a thread has the
/// same places in each, and its pointers move on by a slice. Of patterns that are spread, B alone.
template <class T, bool ByColumns, bool Spread>
struct NmMmaCopies {
  using Tile = NmMmaTile<ByColumns, Spread>;
  static constexpr int kAcrossA = Tile::kStored / 8, kDownA = kNmMmaThreads / kAcrossA;
  static constexpr int kAcrossB = Tile::kLengthB / 8, kDownB = kNmMmaThreads / kAcrossB;

  const T *a, *b;
  const std::uint8_t* codes;
  int left;              // elements of a line from the next slice on
  int rows, columns, i;  // what the tile has of them; the thread

  __device__ NmMmaCopies(const NmMmaArgs<T>& args, std::int64_t row0, std::int64_t column0,
                         int slice, int thread)
      : i(thread) {
    const std::int64_t k = static_cast<std::int64_t>(slice) * kNmMmaDepth;
    a = static_cast<const T*>(args.a.values) + (row0 + i / kAcrossA) * args.a.slots + k / 2 +
        i % kAcrossA * 8;
    codes = args.a.indices + (row0 + i) * args.a.index_bytes + k / 8;
    const std::int64_t down = i / kAcrossB, across = i % kAcrossB * 8;
    b = args.b + (ByColumns ? (column0 + down) * args.ldb + k + across
                            : (k + down) * args.ldb + column0 + across);
    left = static_cast<int>(args.a.length - k);
    rows = static_cast<int>(least<std::int64_t>(args.a.lines - row0, kNmMmaSide));
    columns = static_cast<int>(least<std::int64_t>(args.to.n - column0, kNmMmaSide));
  }

  /// A copy that is not valid reads nothing, wherever its address is.
  __device__ __forceinline__ void next(const NmMmaArgs<T>& args, T* stage) {
    if constexpr (!Spread) next_a(args, stage);
    const int down_b = i / kAcrossB, across_b = i % kAcrossB * 8;
    T* const to_b = stage + Tile::kB + down_b * Tile::kPitchB + across_b;
    const bool along = across_b < (ByColumns ? left : columns);
#pragma unroll
    for (int r = 0; r < Tile::kRowsB / kDownB; ++r) {
      cp_async<16>(to_b + r * kDownB * Tile::kPitchB, b + r * kDownB * args.ldb,
                   along && down_b + r * kDownB < (ByColumns ? columns : left));
    }
    b += ByColumns ? std::int64_t{kNmMmaDepth} : kNmMmaDepth * args.ldb;
    left -= kNmMmaDepth;
  }

  __device__ __forceinline__ void next_a(const NmMmaArgs<T>& args, T* stage) {
    const int down_a = i / kAcrossA;
    T* const to_a = stage + down_a * Tile::kPitchA + i % kAcrossA * 8;
    const bool stored = i % kAcrossA * 16 < left;
#pragma unroll
    for (int r = 0; r < kNmMmaSide / kDownA; ++r) {
      cp_async<16>(to_a + r * kDownA * Tile::kPitchA, a + r * kDownA * args.a.slots,
                   stored && down_a + r * kDownA < rows);
    }
    if (i < kNmMmaSide) {
      cp_async<8>(reinterpret_cast<std::uint8_t*>(stage + Tile::kCodes) + i * Tile::kCodeBytes,
                  codes, i < rows);
    }
    a += Tile::kStored;
    codes += Tile::kCodeBytes;
  }
};

/// Copies a slice by elements, for operands that are out of line; of patterns that are spread, B
/// alone.
template <bool ByColumns, bool Spread, class T>
__device__ __forceinline__ void copy_slowly(const NmMmaArgs<T>& args, T* stage, std::int64_t row0,
                                            std::int64_t column0, int slice, int thread) {
  using Tile = NmMmaTile<ByColumns, Spread>;
  constexpr int kBytes = Tile::kCodeBytes;
  const std::int64_t k = static_cast<std::int64_t>(slice) * kNmMmaDepth, left = args.a.length - k;
  const std::int64_t rows = args.a.lines - row0, columns = args.to.n - column0;
  if constexpr (!Spread) {
    copy_tile<kNmMmaSide, Tile::kStored, Tile::kPitchA, kNmMmaThreads, false, false>(
        false, stage, static_cast<const T*>(args.a.values) + row0 * args.a.slots + k / 2,
        args.a.slots, rows, left / 2, thread);
    auto* const codes = reinterpret_cast<std::uint8_t*>(stage + Tile::kCodes);
    const std::uint8_t* const from = args.a.indices + row0 * args.a.index_bytes + k / 8;
#pragma unroll 1
    for (int i = thread; i < kNmMmaSide * kBytes; i += kNmMmaThreads) {
      const int row = i / kBytes, byte = i % kBytes;
      const bool valid = row < rows && k / 8 + byte < args.a.index_bytes;
      codes[i] = valid ? from[row * args.a.index_bytes + byte] : std::uint8_t{0};
    }
  }
  copy_tile<Tile::kRowsB, Tile::kLengthB, Tile::kPitchB, kNmMmaThreads, false, false>(
      false, stage + Tile::kB,
      args.b + (ByColumns ? column0 * args.ldb + k : k * args.ldb + column0), args.ldb,
      ByColumns ? columns : left, ByColumns ? left : columns, thread);
}

/// A sum without the zeros that spreading adds: of the slices from `first` to `last`.
template <bool ByColumns, class T>
__device__ inline float sum_of_stored(const NmMmaArgs<T>& args, std::int64_t row,
                                      std::int64_t column, std::int64_t first, std::int64_t last) {
  const T* const values = static_cast<const T*>(args.a.values) + row * args.a.slots;
  const std::uint8_t* const positions = args.a.indices + row * args.a.index_bytes;
  const std::int64_t end = least(last * args.pairs.slice_slots, args.a.slots);
  float sum = 0.0f;
  for (std::int64_t slot = first * args.pairs.slice_slots; slot < end; ++slot) {
    const std::int64_t k = slot / args.a.n * args.a.m + nm_position(positions, slot, args.a.bits);
    sum += widen(values[slot]) *
           widen(args.b[ByColumns ? column * args.ldb + k : k * args.ldb + column]);
  }
  return sum;
}

/// sums += A · B for 32 elements of a slice, which are its half `Half`.
template <class T, class Tile, bool ByColumns, int Half>
__device__ __forceinline__ void multiply_half(const T* a, const T* b, int lane,
                                              const std::uint32_t (&codes)[4],
                                              float (&sums)[4][4][4]) {
  const int j = lane % 8, i = lane / 8;
  std::uint32_t right[4][4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    // Lane 8i + j gives the address of row j of matrix i, which has elements 8i on of the half.
    if constexpr (ByColumns) {
      ldmatrix_x4(right[c], b + (8 * c + j) * Tile::kPitchB + 32 * Half + 8 * i);
    } else {
      ldmatrix_x4_trans(right[c], b + (32 * Half + lane) * Tile::kPitchB + 8 * c);
    }
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    std::uint32_t left[4];
    ldmatrix_x4(left, a + (16 * r + i % 2 * 8 + j) * Tile::kPitchA + 16 * Half + i / 2 * 8);
#pragma unroll
    for (int c = 0; c < 4; ++c) mma_sp_m16n8k32<T, Half>(sums[r][c], left, right[c], codes[r]);
  }
}

/// `Spread`: A is not 2:4.
template <class T, bool ByColumns, bool Spread>
__global__ void __launch_bounds__(kNmMmaThreads, 2) nm_mma(const NmMmaArgs<T> args) {
  using Tile = NmMmaTile<ByColumns, Spread>;
  T* const ring = dynamic_shared<T>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
  // Neighbouring thread blocks have different rows and the same columns, so they share rows of B.
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x % args.row_tiles) * kNmMmaSide;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.x / args.row_tiles) * kNmMmaSide;
  const std::int64_t columns = args.to.n - column0;
  const int first = static_cast<int>(blockIdx.y) * args.split;
  const int last = least(first + args.split, args.slices);
  int next_slice = first;

  T* const ring_end = ring + Tile::kStages * Tile::kStageElements;
  T* next_stage = ring;
  NmMmaCopies<T, ByColumns, Spread> copies(args, row0, column0, next_slice, thread);
  const NmHalves<T> halves(args.a, args.pairs, row0 + nm_row(thread), nm_half(thread));
  // Where a thread's half of a line is in a stage, and the positions in it.
  const int half_at = nm_row(thread) * Tile::kPitchA + nm_half(thread) * kNmHalfStored;
  const int codes_at = Tile::kCodes + (nm_row(thread) * 2 + nm_half(thread)) * Tile::kCodeBytes / 4;
  auto* const table = reinterpret_cast<std::uint64_t*>(ring + Tile::kTable);
  if constexpr (Spread) {
#pragma unroll 1
    for (int i = thread; i < kNmPlaces * kNmPlaces * kNmCopies; i += kNmMmaThreads) {
      const int places = i / kNmCopies;
      table[i] = nm_table_entry(places / kNmPlaces, places % kNmPlaces);
    }
    __syncthreads();  // orders the writes of the table before its reads
  }
  const auto load = [&] {
    if (next_slice < last) {
      if constexpr (Spread) {
        halves.copy(args.a, args.pairs, next_slice, next_stage + half_at,
                    reinterpret_cast<std::uint32_t*>(next_stage + codes_at));
      }
      if (args.wide) {
        copies.next(args, next_stage);
      } else {
        copy_slowly<ByColumns, Spread>(args, next_stage, row0, column0, next_slice, thread);
      }
      next_stage += Tile::kStageElements;
      if (next_stage == ring_end) next_stage = ring;
      ++next_slice;
    }
    // Each slice has a group, at the end an empty one, so that waiting counts slices.
    cp_async_commit();
  };

  float sums[4][4][4] = {};
#pragma unroll 1
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) load();
  T* stage = ring;
  for (int slice = first; slice < last; ++slice) {
    cp_async_wait<Tile::kStages - 2>();
    if constexpr (Spread) {
      halves.spread(args.a, args.pairs, slice, table + thread % kNmCopies, stage + half_at,
                    reinterpret_cast<std::uint32_t*>(stage + codes_at));
    }
    __syncthreads();  // orders all threads' copies of this slice before its reads, and the last
                      // reads of the stage that is loaded next
    load();
    if (warp_column < columns) {
      const auto* const all = reinterpret_cast<const std::uint16_t*>(stage + Tile::kCodes);
      const int unit = lane % 4 + (Spread ? lane % 4 / 2 * 2 : 0);
      std::uint32_t codes[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const auto* const at = all + (warp_row + 16 * r + lane / 4) * (Tile::kCodeBytes / 2) + unit;
        const std::uint32_t both =
            at[0] | static_cast<std::uint32_t>(at[8 * (Tile::kCodeBytes / 2)]) << 16;
        // Groups beyond a 2:4 matrix get positions 0 and 1, since these must differ.
        codes[r] = Spread ? both : both | (~(both | both >> 1) & 0x44444444u);
      }
      const T* const a = stage + warp_row * Tile::kPitchA;
      const T* const b = stage + Tile::kB + warp_column * (ByColumns ? Tile::kPitchB : 1);
      multiply_half<T, Tile, ByColumns, 0>(a, b, lane, codes, sums);
      multiply_half<T, Tile, ByColumns, 1>(a, b, lane, codes, sums);
    }
    stage += Tile::kStageElements;
    if (stage == ring_end) stage = ring;
  }
  cp_async_wait<0>();
  bool finite = true;
  if constexpr (Spread) {
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      const float sum = sums[i / 16][i / 4 % 4][i % 4];
      finite = finite && sum - sum == 0.0f;
    }
  }
  // Orders the reads of the ring before it is used for the tile of sums.
  finite = __syncthreads_and(finite) != 0;

  float* const tile = reinterpret_cast<float*>(ring);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* const to = tile + (warp_row + 16 * r + 8 * half + lane / 4) * Tile::kPitchSums +
                          warp_column + 8 * c + lane % 4 * 2;
        to[0] = sums[r][c][2 * half];
        to[1] = sums[r][c][2 * half + 1];
      }
    }
  }
  __syncthreads();  // orders the writes of all sums before they are read in another order

  if (Spread && !finite && args.pairs.pair > 4) {  // all of 1:2 is stored
    for (int i = thread; i < kNmMmaSide * kNmMmaSide; i += kNmMmaThreads) {
      const int row = i / kNmMmaSide, column = i % kNmMmaSide;
      float* const sum = tile + row * Tile::kPitchSums + column;
      if (row0 + row >= args.a.lines || column >= columns || *sum - *sum == 0.0f) continue;
      *sum = sum_of_stored<ByColumns>(args, row0 + row, column0 + column, first, last);
    }
    __syncthreads();  // orders these writes before their reads
  }
  constexpr SumsTile kShape(kNmMmaSide, kNmMmaSide, Tile::kPitchSums);
  store_tile(args.to, ByColumns, kShape, tile, row0, column0, thread, kNmMmaThreads);
}

}  // namespace gossamer::cuda
