#pragma once

// Parts of the products on tensor cores: copies of the operands' slices to shared memory, products
// of slices, and the fragments of sums (m16n8k16).

#include "base/kernels/numbers.cuh"
#include "base/ptx.cuh"

namespace gossamer::cuda {

/// How A's blocks and B are stored. rows: both by rows; columns: B is [n, k] and out [n, m];
/// transposed: A's blocks are transposed.
enum class BsrLayout { rows, columns, transposed };

/// The sizes of a tile. Slices of blocks that are stored transposed are [depth, rows].
template <int Rows, int Depth, int Warps, BsrLayout Layout>
struct BsrMmaTile {
  static constexpr bool kByColumns = Layout == BsrLayout::columns;
  static constexpr bool kTransposed = Layout == BsrLayout::transposed;
  static constexpr int kRows = Rows, kDepth = Depth, kWarps = Warps;
  static constexpr int kThreads = 32 * Warps, kColumns = 32 * Warps;
  static constexpr int kStages = Depth == 64 ? 2 : 3;
  static constexpr int kPad = 8;  // padding, in elements of 2 bytes
  static constexpr int kRowsA = kTransposed ? Depth : Rows;
  static constexpr int kLengthA = kTransposed ? Rows : Depth;
  static constexpr int kPitchA = kLengthA + kPad;
  static constexpr int kStageA = kRowsA * kPitchA;
  static constexpr int kRowsB = kByColumns ? kColumns : Depth;
  static constexpr int kLengthB = kByColumns ? Depth : kColumns;
  static constexpr int kPitchB = kLengthB + kPad;
  static constexpr int kStageElements = kStageA + kRowsB * kPitchB;
  static constexpr int kPitchSums = kColumns + 4;
  static constexpr int kRing = kStages * kStageElements * 2;
  static constexpr int kSums = Rows * kPitchSums * 4;
  static constexpr int kShared = kRing > kSums ? kRing : kSums;
  static_assert(kStageA * 2 % 16 == 0 && kStageElements * 2 % 16 == 0 && kPitchA * 2 % 16 == 0 &&
                    kPitchB * 2 % 16 == 0,
                "ldmatrix and 16-byte copies need rows at multiples of 16 bytes");
};

/// Copies a [Rows, Length] piece into rows of shared memory, `Pitch` apart, `bytes` at a time. Row
/// r begins at row_at(r). Rows for which that is null, and columns from `columns` on, become zeros.
/// `columns` is a multiple of the elements of a copy; `anywhere` is some address in the array.
template <int Rows, int Length, int Pitch, int Threads, int Bytes, class T, class RowAt>
__device__ __forceinline__ void copy_rows(T* shared, const T* anywhere, const RowAt& row_at,
                                          std::int64_t columns, int thread) {
  constexpr int kElements = Bytes / static_cast<int>(sizeof(T)), kAcross = Length / kElements;
#pragma unroll 4
  for (int i = thread; i < Rows * kAcross; i += Threads) {
    const int row = i / kAcross, column = i % kAcross * kElements;
    const T* const begin = row_at(row);
    const bool valid = begin != nullptr && column < columns;
    T* to = shared + row * Pitch + column;
    // An invalid copy reads nothing, but it needs a valid address.
    const T* from = valid ? begin + column : anywhere;
    if constexpr (Bytes >= 4) {
      cp_async<Bytes>(to, from, valid);
    } else {
      *to = valid ? *from : narrow<T>(0.0f);
    }
  }
}

template <int Rows, int Length, int Pitch, int Threads, class T, class RowAt>
__device__ __forceinline__ void copy_rows(int bytes, T* shared, const T* anywhere,
                                          const RowAt& row_at, std::int64_t columns, int thread) {
  switch (bytes) {
    case 16:
      return copy_rows<Rows, Length, Pitch, Threads, 16>(shared, anywhere, row_at, columns, thread);
    case 8:
      return copy_rows<Rows, Length, Pitch, Threads, 8>(shared, anywhere, row_at, columns, thread);
    case 4:
      return copy_rows<Rows, Length, Pitch, Threads, 4>(shared, anywhere, row_at, columns, thread);
    default:
      return copy_rows<Rows, Length, Pitch, Threads, 2>(shared, anywhere, row_at, columns, thread);
  }
}

/// The same for `rows` rows that are `stride` apart. Does not use row_at, since a pointer for each
/// row costs registers that the products do not have.
template <int Rows, int Length, int Pitch, int Threads, int Bytes, class T>
__device__ __forceinline__ void copy_piece(T* shared, const T* global, std::int64_t stride,
                                           std::int64_t rows, std::int64_t columns, int thread) {
  constexpr int kElements = Bytes / static_cast<int>(sizeof(T)), kAcross = Length / kElements;
#pragma unroll 4
  for (int i = thread; i < Rows * kAcross; i += Threads) {
    const int row = i / kAcross, column = i % kAcross * kElements;
    const bool valid = row < rows && column < columns;
    T* to = shared + row * Pitch + column;
    // An invalid copy reads nothing, but it needs a valid address.
    const T* from = valid ? global + row * stride + column : global;
    if constexpr (Bytes >= 4) {
      cp_async<Bytes>(to, from, valid);
    } else {
      *to = valid ? *from : narrow<T>(0.0f);
    }
  }
}

template <int Rows, int Length, int Pitch, int Threads, class T>
__device__ __forceinline__ void copy_piece(int bytes, T* shared, const T* global,
                                           std::int64_t stride, std::int64_t rows,
                                           std::int64_t columns, int thread) {
  switch (bytes) {
    case 16:
      return copy_piece<Rows, Length, Pitch, Threads, 16>(shared, global, stride, rows, columns,
                                                          thread);
    case 8:
      return copy_piece<Rows, Length, Pitch, Threads, 8>(shared, global, stride, rows, columns,
                                                         thread);
    case 4:
      return copy_piece<Rows, Length, Pitch, Threads, 4>(shared, global, stride, rows, columns,
                                                         thread);
    default:
      return copy_piece<Rows, Length, Pitch, Threads, 2>(shared, global, stride, rows, columns,
                                                         thread);
  }
}

/// Copies a [Rows, Length] piece into rows of shared memory, `Pitch` apart: 16 bytes at a time if
/// `wide`, else by elements. Rows from `rows` on and columns from `columns` on become zeros, unless
/// AllRows or AllColumns say that there are none. How many copies a thread makes is known to the
/// compiler.
template <int Rows, int Length, int Pitch, int Threads, bool AllRows, bool AllColumns, class T>
__device__ __forceinline__ void copy_tile(bool wide, T* shared, const T* global,
                                          std::int64_t stride, std::int64_t rows,
                                          std::int64_t columns, int thread) {
  if (wide) {
    constexpr int kAcross = Length / 8, kCopies = Rows * kAcross;
    constexpr int kRounds = (kCopies + Threads - 1) / Threads;
    if constexpr (Threads % kAcross == 0) {
      // A thread stays in its column of the piece, and goes down by the same step.
      constexpr int kStep = Threads / kAcross;
      const int row = thread / kAcross, column = thread % kAcross * 8;
      // A copy that is not valid reads nothing, wherever its address is.
      const bool valid_column = AllColumns || column < columns;
      const T* from = global + row * stride + column;
      T* to = shared + row * Pitch + column;
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const bool mine = kCopies % Threads == 0 || row + i * kStep < Rows;
        const bool valid_row = AllRows || row + i * kStep < rows;
        if (mine) {
          cp_async<16>(to + i * kStep * Pitch, from, valid_column && valid_row);
        }
        from += kStep * stride;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const int copy = thread + i * Threads, row = copy / kAcross, column = copy % kAcross * 8;
        const bool valid = (AllRows || row < rows) && (AllColumns || column < columns);
        if (kCopies % Threads == 0 || copy < kCopies) {
          cp_async<16>(shared + row * Pitch + column,
                       valid ? global + row * stride + column : global, valid);
        }
      }
    }
    return;
  }
#pragma unroll 1
  for (int i = thread; i < Rows * Length; i += Threads) {
    const int row = i / Length, column = i % Length;
    const bool valid = (AllRows || row < rows) && (AllColumns || column < columns);
    shared[row * Pitch + column] = valid ? global[row * stride + column] : narrow<T>(0.0f);
  }
}

/// sums += A · B for one stage: `a` is its slice of A, `b` the warp's 32 columns.
template <class Tile, class T>
__device__ __forceinline__ void multiply_stage(const T* a, const T* b, int lane,
                                               float (&sums)[Tile::kRows / 16][4][4]) {
  constexpr int kTall = Tile::kRows / 16;
  // Lane 8i + j gives the address of row j of matrix i. Matrix 1 is eight rows below matrix 0,
  // matrix 2 is eight columns to the right; for B stored by columns and for transposed A the other
  // way round.
  const int j = lane % 8, low = lane / 8 % 2 * 8, high = lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < Tile::kDepth; k += 16) {
    std::uint32_t left[kTall][4], right[2][4];
#pragma unroll
    for (int i = 0; i < kTall; ++i) {
      if constexpr (Tile::kTransposed) {
        ldmatrix_x4_trans(left[i], a + (k + high + j) * Tile::kPitchA + 16 * i + low);
      } else {
        ldmatrix_x4(left[i], a + (16 * i + low + j) * Tile::kPitchA + k + high);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (Tile::kByColumns) {
        ldmatrix_x4(right[i], b + (16 * i + high + j) * Tile::kPitchB + k + low);
      } else {
        ldmatrix_x4_trans(right[i], b + (k + low + j) * Tile::kPitchB + 16 * i + high);
      }
    }
#pragma unroll
    for (int i = 0; i < kTall; ++i) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const std::uint32_t column[2] = {right[c / 2][c % 2 * 2], right[c / 2][c % 2 * 2 + 1]};
        mma_m16n8k16<T>(sums[i][c], left[i], column);
      }
    }
  }
}

/// Writes a warp's sums to the tile of sums in shared memory.
template <class Tile>
__device__ __forceinline__ void spread_sums(const float (&sums)[Tile::kRows / 16][4][4],
                                            float* tile, int column0, int lane) {
#pragma unroll
  for (int i = 0; i < Tile::kRows / 16; ++i) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* const to = tile + (16 * i + 8 * half + lane / 4) * Tile::kPitchSums + column0 +
                          8 * c + lane % 4 * 2;
        to[0] = sums[i][c][2 * half];
        to[1] = sums[i][c][2 * half + 1];
      }
    }
  }
}

}  // namespace gossamer::cuda
