#pragma once

// Counts of what is not zero, masks that are added up, groups that have too many elements, and
// means of arrays. Counts are whole numbers, so that atomics may add them in any order.

#include "base/kernels/numbers.cuh"
#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

inline constexpr int kCountThreads = 256, kCountWarps = kCountThreads / 32;

using WholeCount = unsigned long long;

/// *to += the sum of the lanes' counts.
__device__ inline void add_warp(WholeCount* to, unsigned own) {
  const unsigned all = __reduce_add_sync(kAllLanes, own);
  if (threadIdx.x % 32 == 0 && all != 0) atomicAdd(to, WholeCount{all});
}

/// A matrix cut into blocks of height x width elements, `across` of them side by side.
template <class U>
struct CountBlocksArgs {
  const U* x;
  std::int64_t stride, rows, cols;
  U bits;  // those that are looked at: all but a sign
  std::int64_t height, width, across, down;
  std::int64_t pieces;  // of the height of a block, a warp each
  std::int64_t span;    // columns of a warp: up to a block's width, or 32 of several blocks
  std::int64_t spans;   // of a row of blocks
  WholeCount* counts;   // zeros at first
};

/// A warp counts a piece of a block, or 32 columns of several.
template <class U>
__global__ void __launch_bounds__(kCountThreads)
    count_blocks(const __grid_constant__ CountBlocksArgs<U> a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t at =
      static_cast<std::int64_t>(blockIdx.x) * kCountWarps + static_cast<int>(threadIdx.x) / 32;
  if (at >= a.down * a.pieces * a.spans) return;
  const std::int64_t span = at % a.spans, piece = at / a.spans % a.pieces;
  const std::int64_t block_row = at / a.spans / a.pieces;
  const std::int64_t top = block_row * a.height, tall = least(a.height, a.rows - top);
  const std::int64_t first = top + tall * piece / a.pieces;
  const std::int64_t end = top + tall * (piece + 1) / a.pieces;
  WholeCount* counts = a.counts + block_row * a.across;
  if (a.span > 32) {  // within one block, of which there are whole numbers of spans
    const std::int64_t each = (a.width + a.span - 1) / a.span, block = span / each;
    const std::int64_t left = block * a.width + span % each * a.span;
    const std::int64_t right = least(least(left + a.span, (block + 1) * a.width), a.cols);
    unsigned own = 0;
    for (std::int64_t r = first; r < end; ++r) {
      const U* row = a.x + r * a.stride;
#pragma unroll 4
      for (std::int64_t c = left + lane; c < right; c += 32) own += (row[c] & a.bits) != 0 ? 1 : 0;
    }
    add_warp(counts + block, own);
    return;
  }
  const std::int64_t c = span * 32 + lane;
  unsigned own = 0;
  if (c < a.cols) {
#pragma unroll 4
    for (std::int64_t r = first; r < end; ++r) own += (a.x[r * a.stride + c] & a.bits) != 0 ? 1 : 0;
  }
  // The lanes of one block are neighbours: its last one adds what they have.
  unsigned up_to = own;
  for (unsigned step = 1; step < 32; step *= 2) {
    const unsigned left = __shfl_up_sync(kAllLanes, up_to, step);
    if (lane >= static_cast<int>(step)) up_to += left;
  }
  const std::int64_t block = c < a.cols ? c / a.width : -1;
  const auto mine = static_cast<int>(block);
  const int next = __shfl_down_sync(kAllLanes, mine, 1),
            before = __shfl_up_sync(kAllLanes, mine, 1);
  const unsigned begins = __ballot_sync(kAllLanes, lane == 0 || before != mine);
  const int start = 31 - __clz(static_cast<int>(begins & (kAllLanes >> (31 - lane))));
  const unsigned others = __shfl_sync(kAllLanes, up_to - own, start);
  if (block >= 0 && (lane == 31 || next != mine) && up_to != others) {
    atomicAdd(counts + block, WholeCount{up_to - others});
  }
}

/// Entries of a BSR matrix; of a CSR's, blocks are 1 x 1.
template <class U>
struct CountEntriesArgs {
  const int *indptr, *indices;
  const U* values;
  U bits;
  std::int64_t rows;  // of blocks
  int block_rows, block_cols;
  std::int64_t height, width, across;
  bool alone;  // a row of blocks has one count
  WholeCount* counts;
};

/// A warp a row of blocks.
template <class U>
__global__ void __launch_bounds__(kCountThreads)
    count_entries(const __grid_constant__ CountEntriesArgs<U> a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kCountWarps + static_cast<int>(threadIdx.x) / 32;
  if (i >= a.rows) return;
  const std::int64_t size = static_cast<std::int64_t>(a.block_rows) * a.block_cols;
  const std::int64_t begin = a.indptr[i] * size, end = a.indptr[i + 1] * size;
  const std::int64_t row = i * a.block_rows;
  unsigned own = 0;
  for (std::int64_t e = begin + lane; e < end; e += 32) {
    if ((a.values[e] & a.bits) == 0) continue;
    if (a.alone) {
      ++own;
      continue;
    }
    const std::int64_t p = e / size, within = e - p * size;
    const std::int64_t r = row + within / a.block_cols;
    const std::int64_t c =
        static_cast<std::int64_t>(a.indices[p]) * a.block_cols + within % a.block_cols;
    atomicAdd(a.counts + r / a.height * a.across + c / a.width, WholeCount{1});
  }
  if (a.alone) add_warp(a.counts + row / a.height * a.across, own);
}

/// fired |= mask of `count` bytes; *total += how many are true then.
static __global__ void __launch_bounds__(kCountThreads)
    count_coverage(std::uint8_t* fired, const std::uint8_t* mask, std::int64_t count, bool wide,
                   WholeCount* total) {
  constexpr int kOwn = 16;
  const std::int64_t first =
      (static_cast<std::int64_t>(blockIdx.x) * kCountThreads + static_cast<int>(threadIdx.x)) *
      kOwn;
  unsigned own = 0;
  const auto join = [&](std::uint8_t a, std::uint8_t b) {
    const bool either = (a | b) != 0;
    own += either ? 1 : 0;
    return static_cast<std::uint8_t>(either ? 1 : 0);
  };
  if (wide && count - first >= kOwn) {
    auto to = load_pack<kOwn>(fired + first);
    const auto from = load_pack<kOwn>(mask + first);
#pragma unroll
    for (int e = 0; e < kOwn; ++e) to.at[e] = join(to.at[e], from.at[e]);
    store_pack(fired + first, to);
  } else {
    for (int e = 0; e < kOwn && first + e < count; ++e) {
      fired[first + e] = join(fired[first + e], mask[first + e]);
    }
  }
  add_warp(total, own);
}

/// Groups of m of `length` elements along an axis, the last of which may have fewer: group g of
/// column c of part o begins at element o·length·cols + g·m·cols + c, in steps of cols.
template <class U>
struct CountGroupsArgs {
  const U* x;
  U bits;
  std::int64_t n, m, length, cols, groups, all;  // groups of a column, of the array
  WholeCount* found;                             // how many have more than n, and the first
};

template <class U>
__global__ void __launch_bounds__(kCountThreads)
    count_groups(const __grid_constant__ CountGroupsArgs<U> a) {
  const std::int64_t at =
      static_cast<std::int64_t>(blockIdx.x) * kCountThreads + static_cast<int>(threadIdx.x);
  std::int64_t elements = 0;
  if (at < a.all) {
    const std::int64_t c = at % a.cols, g = at / a.cols % a.groups, o = at / a.cols / a.groups;
    const U* x = a.x + (o * a.length + g * a.m) * a.cols + c;
    const std::int64_t size = least(a.m, a.length - g * a.m);
    for (std::int64_t i = 0; i < size; ++i) elements += (x[i * a.cols] & a.bits) != 0 ? 1 : 0;
  }
  const bool many = elements > a.n;
  if (many) atomicMin(a.found + 1, static_cast<WholeCount>(at));
  add_warp(a.found, many ? 1 : 0);
}

/// *differs = 1 where words of two arrays differ.
static __global__ void __launch_bounds__(kCountThreads)
    count_differences(const int* a, const int* b, std::int64_t count, WholeCount* differs) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kCountThreads + static_cast<int>(threadIdx.x);
  add_warp(differs, i < count && a[i] != b[i] ? 1 : 0);
}

/// Arrays that one launch adds up.
inline constexpr int kMeanArrays = 256;

template <class T>
struct MeanArgs {
  const T* from[kMeanArrays];
  int arrays;
  std::int64_t count;
  Sum<T>* sums;  // of launches before and after; null where there is one
  bool first, last;
  Sum<T> divisor;
  T* out;
};

template <class T>
__global__ void __launch_bounds__(kCountThreads) count_mean(const __grid_constant__ MeanArgs<T> a) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kCountThreads + static_cast<int>(threadIdx.x);
  if (i >= a.count) return;
  Sum<T> sum = a.first ? Sum<T>{0} : a.sums[i];
#pragma unroll 4
  for (int k = 0; k < a.arrays; ++k) sum += widen(a.from[k][i]);
  if (a.last) {
    a.out[i] = narrow<T>(sum / a.divisor);
  } else {
    a.sums[i] = sum;
  }
}

}  // namespace gossamer::cuda
