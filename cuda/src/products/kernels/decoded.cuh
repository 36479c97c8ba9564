#pragma once

// C = A·B for an A that is stored in some compressed form. A thread block computes 64 by 64
// elements of C. Its threads decode a slice of A into a dense tile in shared memory, copy the slice
// of B beside it, and multiply the two: by tensor cores where the tile is of half precision, else
// by fused multiply-adds. Where C has few tiles, several blocks share the slices of one and write
// their sums apart; a second kernel adds them in order.
//
// What A does not store must not meet an infinity or NaN of B. In a tile, what is not stored is +0,
// and a zero that is stored is -0, so that both can be told apart. Sums that are not finite are
// computed again without the +0: only they can have met one.
//
// With half precision, a slice of 64 costs a warp 4 · (5 ldmatrix.x4 + 8 mma), 2048 elements of
// decoding, and 32 copies of 16 bytes; decoding takes most of the issues.

#include "base/kernels/epilogue.cuh"
#include "base/ptx.cuh"

namespace gossamer::cuda {

inline constexpr int kDecodedThreads = 128;
/// Rows and columns of a tile of C.
inline constexpr int kDecodedSide = 64;

/// Tiles of the type E.
template <class E>
struct DecodedTile {
  static constexpr bool kTensorCores = sizeof(E) == 2;
  static constexpr int kDepth = sizeof(E) == 8 ? 32 : 64;
  static constexpr int kPad = 16 / static_cast<int>(sizeof(E));
  static constexpr int kPitchA = kDepth + kPad;        // A [rows, depth]
  static constexpr int kPitchB = kDecodedSide + kPad;  // B [depth, columns], or [columns, depth]
  static constexpr int kElementsA = kDecodedSide * kPitchA;
  static constexpr int kElementsB = kDepth * kPitchB;
  static constexpr int kSums = kDecodedSide * kDecodedSide / kDecodedThreads;
};

template <class T, class Decoder>
struct DecodedArgs {
  Decoder a;
  std::int64_t m, k, n;
  const T* b;  // B(k, j) = b[k*b_row + j*b_col], one of which is 1
  std::int64_t b_row, b_col;
  T* out;  // C(i, j) = out[i*out_row + j*out_col]
  std::int64_t out_row, out_col;
  Finish<T> finish;
  Sum<T>* partial;  // [splits, m, n], or null where there is one split
  int rows;         // of a tile that A fills, at most kDecodedSide
  int depth;        // of a slice that A fills, at most kDepth
  unsigned row_tiles;
  int slices, split;  // how many there are, and how many a thread block takes
  bool wide;          // B can be copied 16 bytes at a time
};

/// A number that is stored: +0 becomes -0.
__device__ inline float stored(float x) { return x == 0.0f ? -0.0f : x; }
__device__ inline double stored(double x) { return x == 0.0 ? -0.0 : x; }
template <class E>
__device__ inline E stored(E x) {
  return widen(x) == 0.0f ? narrow<E>(-0.0f) : x;
}
/// Is an element of a tile not stored?
__device__ inline bool is_absent(float x) { return __float_as_uint(x) == 0; }
__device__ inline bool is_absent(double x) { return __double_as_longlong(x) == 0; }
__device__ inline bool is_absent(__half x) { return __half_as_ushort(x) == 0; }
__device__ inline bool is_absent(__nv_bfloat16 x) { return __bfloat16_as_ushort(x) == 0; }

/// Copies a slice of B, [depth, columns] where it is stored by rows and E has no tensor cores or B
/// is by rows, else [columns, depth]; zeros beyond. Only the first `width` columns are needed.
template <class T, class E, class Decoder>
__device__ inline void copy_decoded_b(const DecodedArgs<T, Decoder>& a, E* tile,
                                      std::int64_t column0, std::int64_t k0, int width,
                                      int thread) {
  using Tile = DecodedTile<E>;
  const std::int64_t columns = a.n - column0, left = a.k - k0;
  const int depth = static_cast<int>(least<std::int64_t>(a.depth, left));
  const T* b = a.b + k0 * a.b_row + column0 * a.b_col;
  if constexpr (Tile::kTensorCores) {
    // A row of the tile is a row or a column of B: contiguous in both.
    const bool by_rows = a.b_col == 1;
    const std::int64_t stride = by_rows ? a.b_row : a.b_col;
    const int rows = by_rows ? Tile::kDepth : width, length = by_rows ? width : Tile::kDepth;
    const std::int64_t valid_rows = by_rows ? depth : columns;
    const std::int64_t valid_length = by_rows ? columns : depth;
    if (a.wide) {
      for (int i = thread; i < rows * 8; i += kDecodedThreads) {
        const int r = i / 8, c = i % 8 * 8;
        if (c >= length) continue;
        const bool valid = r < valid_rows && c < valid_length;
        cp_async<16>(tile + r * Tile::kPitchB + c, valid ? b + r * stride + c : a.b, valid);
      }
      cp_async_commit();
      cp_async_wait<0>();
    } else {
      for (int i = thread; i < rows * 64; i += kDecodedThreads) {
        const int r = i / 64, c = i % 64;
        if (c >= length) continue;
        const bool valid = r < valid_rows && c < valid_length;
        tile[r * Tile::kPitchB + c] = valid ? b[r * stride + c] : narrow<E>(0.0f);
      }
    }
  } else {
    constexpr int kCount = Tile::kDepth * kDecodedSide;
    for (int i = thread; i < kCount; i += kDecodedThreads) {
      // Neighbouring threads read what is contiguous.
      const bool by_rows = a.b_col == 1;
      const int r = by_rows ? i / kDecodedSide : i % Tile::kDepth;
      const int c = by_rows ? i % kDecodedSide : i / Tile::kDepth;
      if (c >= width) continue;
      const bool valid = r < depth && c < columns;
      tile[r * Tile::kPitchB + c] =
          valid ? static_cast<E>(widen(b[r * a.b_row + c * a.b_col])) : E(0);
    }
  }
}

/// Where sum i of a thread is in the tile.
template <class E>
__device__ inline int sum_row(int i, int thread) {
  if constexpr (DecodedTile<E>::kTensorCores) {
    return thread / 32 * 16 + thread % 32 / 4 + i % 4 / 2 * 8;
  } else {
    return thread / 16 * 8 + i / 4;
  }
}
template <class E>
__device__ inline int sum_column(int i, int thread) {
  if constexpr (DecodedTile<E>::kTensorCores) {
    return i / 4 * 8 + thread % 4 * 2 + i % 2;
  } else {
    return thread % 16 + i % 4 * 16;
  }
}

/// sums += A · B for a slice.
template <class E, class S>
__device__ inline void multiply_decoded(const E* a, const E* b, bool by_rows, int width, int thread,
                                        S (&sums)[DecodedTile<E>::kSums]) {
  using Tile = DecodedTile<E>;
  if constexpr (Tile::kTensorCores) {
    const int lane = thread % 32, j = lane % 8, low = lane / 8 % 2 * 8, high = lane / 16 * 8;
    const E* const rows = a + (thread / 32 * 16 + low + j) * Tile::kPitchA + high;
#pragma unroll
    for (int k = 0; k < Tile::kDepth; k += 16) {
      std::uint32_t left[4];
      ldmatrix_x4(left, rows + k);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (16 * c >= width) break;
        std::uint32_t right[4];
        if (by_rows) {
          ldmatrix_x4_trans(right, b + (k + low + j) * Tile::kPitchB + 16 * c + high);
        } else {
          ldmatrix_x4(right, b + (16 * c + high + j) * Tile::kPitchB + k + low);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const std::uint32_t column[2] = {right[2 * half], right[2 * half + 1]};
          float part[4];
#pragma unroll
          for (int r = 0; r < 4; ++r) part[r] = sums[8 * c + 4 * half + r];
          mma_m16n8k16<E>(part, left, column);
#pragma unroll
          for (int r = 0; r < 4; ++r) sums[8 * c + 4 * half + r] = part[r];
        }
      }
    }
  } else {
    const E* const rows = a + thread / 16 * 8 * Tile::kPitchA;
    for (int k = 0; k < Tile::kDepth; ++k) {
      E x[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = b[k * Tile::kPitchB + thread % 16 + 16 * j];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const E w = rows[i * Tile::kPitchA + k];
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[4 * i + j] += w * x[j];
      }
    }
  }
}

/// The same without what A does not store.
template <class E, class S>
__device__ inline void multiply_stored(const E* a, const E* b, bool by_rows, int thread,
                                       S (&sums)[DecodedTile<E>::kSums]) {
  using Tile = DecodedTile<E>;
  const int across = !Tile::kTensorCores || by_rows ? 1 : Tile::kPitchB;
  const int down = !Tile::kTensorCores || by_rows ? Tile::kPitchB : 1;
  for (int k = 0; k < Tile::kDepth; ++k) {
#pragma unroll
    for (int i = 0; i < Tile::kSums; ++i) {
      const E w = a[sum_row<E>(i, thread) * Tile::kPitchA + k];
      if (is_absent(w)) continue;
      sums[i] += widen(w) * widen(b[k * down + sum_column<E>(i, thread) * across]);
    }
  }
}

/// E is the type of the tiles: T, or that of its sums.
template <class T, class E, class Decoder>
__global__ void __launch_bounds__(kDecodedThreads) decoded_product(DecodedArgs<T, Decoder> a) {
  using Tile = DecodedTile<E>;
  using S = Sum<T>;
  __shared__ __align__(16) E tile_a[Tile::kElementsA];
  __shared__ __align__(16) E tile_b[Tile::kElementsB];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x % a.row_tiles) * a.rows;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.x / a.row_tiles) * kDecodedSide;
  const int width =
      static_cast<int>(least<std::int64_t>((a.n - column0 + 15) / 16 * 16, kDecodedSide));
  const int first = static_cast<int>(blockIdx.y) * a.split;
  const int last = least(first + a.split, a.slices);
  const bool by_rows = a.b_col == 1;

  // What decoding does not fill stays as it is: rows beyond A's, and what a slice is short of.
  for (int i = thread; i < Tile::kElementsA; i += kDecodedThreads) tile_a[i] = E(0.0f);
  // Columns from `width` on are read, but only their own sums depend on them.
  for (int i = thread; i < Tile::kElementsB; i += kDecodedThreads) tile_b[i] = E(0.0f);
  __syncthreads();  // orders these writes before those of the first slice

  S sums[Tile::kSums];
  for (int pass = 0; pass < 2; ++pass) {
#pragma unroll
    for (int i = 0; i < Tile::kSums; ++i) sums[i] = S(0);
    for (int slice = first; slice < last; ++slice) {
      copy_decoded_b<T, E>(a, tile_b, column0, static_cast<std::int64_t>(slice) * a.depth, width,
                           thread);
      a.a.decode(tile_a, row0, slice, thread);
      __syncthreads();  // orders the writes of the tiles before their reads
      if (pass == 0) {
        multiply_decoded(tile_a, tile_b, by_rows, width, thread, sums);
      } else {
        multiply_stored(tile_a, tile_b, by_rows, thread, sums);
      }
      __syncthreads();  // orders these reads before the writes of the next slice
    }
    bool finite = true;
#pragma unroll
    for (int i = 0; i < Tile::kSums; ++i) finite = finite && sums[i] - sums[i] == S(0);
    if (__syncthreads_and(finite)) break;
  }

#pragma unroll
  for (int i = 0; i < Tile::kSums; ++i) {
    const std::int64_t row = row0 + sum_row<E>(i, thread);
    const std::int64_t column = column0 + sum_column<E>(i, thread);
    if (sum_row<E>(i, thread) >= a.rows || row >= a.m || column >= a.n) continue;
    if (a.partial != nullptr) {
      a.partial[(blockIdx.y * a.m + row) * a.n + column] = sums[i];
    } else {
      a.finish.store(a.out + row * a.out_row + column * a.out_col, sums[i], row);
    }
  }
}

template <class T>
struct DecodedJoinArgs {
  const Sum<T>* partial;  // [splits, m, n]
  int splits;
  std::int64_t m, n;
  T* out;
  std::int64_t out_row, out_col;
  Finish<T> finish;
};

inline constexpr int kDecodedJoinThreads = 256;

/// Adds the sums of the splits in order; a thread has an element.
template <class T>
__global__ void __launch_bounds__(kDecodedJoinThreads) decoded_join(DecodedJoinArgs<T> a) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kDecodedJoinThreads + threadIdx.x;
  if (i >= a.m * a.n) return;
  // Neighbours in out are written by neighbouring threads.
  const bool by_rows = a.out_col == 1;
  const std::int64_t row = by_rows ? i / a.n : i % a.m, column = by_rows ? i % a.n : i / a.m;
  const Sum<T>* from = a.partial + row * a.n + column;
  Sum<T> sum = from[0];
  for (int s = 1; s < a.splits; ++s) sum += from[s * a.m * a.n];
  a.finish.store(a.out + row * a.out_row + column * a.out_col, sum, row);
}

}  // namespace gossamer::cuda
