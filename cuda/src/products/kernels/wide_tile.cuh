#pragma once

// Parts of products on tensor cores whose tiles have 256 columns. A warp computes 64 by 64 elements
// of C, so that it reads shared memory once for four products m16n8k16: what a multiprocessor reads
// for its warps then takes no longer than their products.
//
// An operand is a number of lines: the rows of A, the columns of B. A slice of it is 32 deep and
// lies in shared memory as it does in global memory, [lines, 32] where it is stored along its
// lines, else [32, lines], but for the order of the groups of eight within a row: the eight that an
// ldmatrix reads are in different banks.
//
// Which elements of its lines a lane 4g + t has is the same in both: `natural`, as ldmatrix
// gives them, or `neighbours`, 8t to 8t + 7 of line g, as packed matrices are stored.

#include "base/kernels/epilogue.cuh"
#include "base/ptx.cuh"

namespace gossamer::cuda {

/// Rows and columns of a warp, and columns of a thread block.
inline constexpr int kWideSide = 64, kWideColumns = 256;
inline constexpr int kWideDepth = 32;  // of a slice
/// The distance of rows in the tile of sums.
inline constexpr int kWidePitch = kWideColumns + 4;

enum class WideOrder { natural, neighbours };

/// The group i of row k of a slice is at the place i ^ order_of_row(k), of line l along its
/// elements at i ^ order_of_line(l).
template <WideOrder Order>
__device__ inline int order_of_row(int k) {
  return Order == WideOrder::natural ? k % 8 : (k & 1) | (k >> 3 & 3) << 1;
}
template <WideOrder Order>
__device__ inline int order_of_line(int line) {
  return Order == WideOrder::natural ? line / 2 % 4 : 0;
}

/// Copies a slice, whose line l has its element k at from[l*stride + k], or where it is not stored
/// along its lines at from[k*stride + l]. Lines from `lines` on become zeros, and across the lines
/// also what is deeper than `depth`; `lines` is then a multiple of eight.
template <WideOrder Order, int Lines, int Threads, class T>
__device__ __forceinline__ void copy_slice(bool along, T* slice, const T* from, std::int64_t stride,
                                           std::int64_t lines, std::int64_t depth, int thread) {
  constexpr int kRounds = Lines * kWideDepth / 8 / Threads;
  // A copy that is not valid reads nothing, wherever its address is.
  if (along) {
    constexpr int kStep = Threads / 4;
    static_assert(kWideDepth == 4 * 8 && kStep % 8 == 0);
    const int line = thread / 4, group = thread % 4;
    const T* at = from + line * stride + group * 8;
    T* const to = slice + line * kWideDepth + (group ^ order_of_line<Order>(line)) * 8;
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      cp_async<16>(to + i * kStep * kWideDepth, at, line + i * kStep < lines);
      at += kStep * stride;
    }
    return;
  }
  constexpr int kAcross = Lines / 8, kStep = Threads / kAcross;
  static_assert(Threads % kAcross == 0 && (kStep & (kStep - 1)) == 0);
  const int k = thread / kAcross, group = thread % kAcross, place = group ^ order_of_row<Order>(k);
  const bool valid = group * 8 < lines;
  const T* at = from + k * stride + group * 8;
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    // The bits of k and of the steps are apart.
    cp_async<16>(slice + (k + i * kStep) * Lines + (place ^ order_of_row<Order>(i * kStep)) * 8, at,
                 valid && k + i * kStep < depth);
    at += kStep * stride;
  }
}

/// words[i] becomes the lane's elements of group `first` + i of eight lines: the right operands of
/// two products m16n8k16.
template <WideOrder Order, int Lines, int Groups, class T>
__device__ __forceinline__ void load_right(bool along, const T* slice, int first, int lane,
                                           std::uint32_t (&words)[Groups][4]) {
  // Lane 8w + j gives the address of row j of the matrix that becomes word w.
  const int j = lane % 8, w = lane / 8;
  if (!along) {
    const int k = Order == WideOrder::natural ? lane : j / 2 * 8 + w * 2 + j % 2;
    const int at = k * Lines + (first ^ j) * 8;  // group i changes three bits of it
#pragma unroll
    for (int i = 0; i < Groups; ++i) ldmatrix_x4_trans(words[i], slice + (at ^ 8 * i));
  } else if constexpr (Order == WideOrder::natural) {
    const T* const at = slice + (first * 8 + j) * kWideDepth + (w ^ order_of_line<Order>(j)) * 8;
#pragma unroll
    for (int i = 0; i < Groups; ++i) ldmatrix_x4(words[i], at + i * 8 * kWideDepth);
  } else {
    const T* const at = slice + first * 8 * kWideDepth + lane * 8;
#pragma unroll
    for (int i = 0; i < Groups; ++i) {
      const auto eight =
          load_pack<4>(reinterpret_cast<const std::uint32_t*>(at + i * 8 * kWideDepth));
#pragma unroll
      for (int k = 0; k < 4; ++k) words[i][k] = eight.at[k];
    }
  }
}

/// Where a lane finds its left operands in a slice of 64 lines in natural order, for load_left.
__device__ __forceinline__ int place_of_left(bool along, int lane) {
  const int j = lane % 8, low = lane / 8 % 2, high = lane / 16;
  return along ? (8 * low + j) * kWideDepth + (high ^ order_of_line<WideOrder::natural>(j)) * 8
               : (8 * high + j) * kWideSide + (low ^ j) * 8;
}

/// The left operand of product i of a slice, of lines 16r to 16r + 15.
template <class T>
__device__ __forceinline__ void load_left(bool along, const T* slice, int place, int r, int i,
                                          std::uint32_t (&left)[4]) {
  if (along) {
    ldmatrix_x4(left, slice + (place ^ 16 * i) + 16 * r * kWideDepth);
  } else {
    ldmatrix_x4_trans(left, slice + (place ^ 16 * r) + 16 * i * kWideSide);
  }
}

/// The sums of a warp, as fragments: rows by 16, columns by eight.
using WideSums = float[kWideSide / 16][kWideSide / 8][4];

/// sums += A · B for a slice: load(r, i, left) loads the left operand of product i of rows 16r to
/// 16r + 15, and `right` are the operands of the warp's columns.
template <class T, class Load>
__device__ __forceinline__ void multiply_slice(const Load& load,
                                               const std::uint32_t (&right)[kWideSide / 8][4],
                                               WideSums& sums) {
#pragma unroll
  for (int r = 0; r < kWideSide / 16; ++r) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      std::uint32_t left[4];
      load(r, i, left);
#pragma unroll
      for (int c = 0; c < kWideSide / 8; ++c) {
        const std::uint32_t column[2] = {right[c][2 * i], right[c][2 * i + 1]};
        mma_m16n8k16<T>(sums[r][c], left, column);
      }
    }
  }
}

/// Writes a warp's sums to the thread block's tile, from its first row and column on.
__device__ __forceinline__ void spread_sums(const WideSums& sums, float* tile, int lane) {
#pragma unroll
  for (int r = 0; r < kWideSide / 16; ++r) {
#pragma unroll
    for (int c = 0; c < kWideSide / 8; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Pack<float, 2> pair{{sums[r][c][2 * half], sums[r][c][2 * half + 1]}};
        store_pack<2>(tile + (16 * r + 8 * half + lane / 4) * kWidePitch + 8 * c + lane % 4 * 2,
                      pair);
      }
    }
  }
}

}  // namespace gossamer::cuda
