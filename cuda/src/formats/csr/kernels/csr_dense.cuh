#pragma once

// Converts between dense matrices and CSR. A warp reads a part of a row, 32 neighbours with each
// load; the warps of a block share long rows. Values are moved as unsigned integers of their size:
// an element is ±0 if no bit but its sign is set.
//
// Counting reads the matrix once. Filling reads it once more (twice where warps share rows, the
// second time from the caches) and writes 4 + size bytes for each entry. Converting back writes
// each element once, in whole sectors.

#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

inline constexpr int kDenseWarps = 8;
inline constexpr int kDenseThreads = 32 * kDenseWarps;
/// The warps of a block share rows that have more columns than this.
inline constexpr std::int64_t kSharedRowColumns = 4096;

struct DenseToCsrArgs {
  const void* values;
  std::int64_t stride;
  const std::uint8_t* mask;  // may be null
  std::int64_t mask_stride;
  int rows, cols;
  int* indptr;  // written by the count, read by the fill
  int* indices;
  void* out;
};

template <class U>
__device__ inline bool is_kept(U bits) {
  return static_cast<U>(bits << 1) != 0;
}
__device__ inline bool is_kept(std::uint8_t mask) { return mask != 0; }

/// Columns [begin, end) of row `row` for one of `Warps` warps.
struct RowPart {
  int row, begin, end;
};

template <int Warps>
__device__ inline RowPart row_part(int rows, int cols, int warp) {
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * (kDenseWarps / Warps) + warp / Warps;
  if (row >= rows) return {.row = -1, .begin = 0, .end = 0};
  const std::int64_t width = (static_cast<std::int64_t>(cols) + 32 * Warps - 1) / (32 * Warps) * 32;
  const std::int64_t begin = width * (warp % Warps), end = begin + width;
  return {.row = static_cast<int>(row),
          .begin = static_cast<int>(begin < cols ? begin : cols),
          .end = static_cast<int>(end < cols ? end : cols)};
}

/// Returns to every lane the number of kept elements in source[begin, end).
template <class S>
__device__ inline int count_kept(const S* __restrict__ source, int begin, int end, int lane) {
  int count = 0;
#pragma unroll 4
  for (std::int64_t j = begin + lane; j < end; j += 32) count += is_kept(source[j]) ? 1 : 0;
  return static_cast<int>(__reduce_add_sync(kAllLanes, static_cast<unsigned>(count)));
}

/// indptr[row+1] = the number of entries in the row. S is the elements' bits or the mask's bytes.
template <class S, int Warps>
__global__ void __launch_bounds__(kDenseThreads) csr_count_rows(DenseToCsrArgs a) {
  __shared__ int counts[kDenseWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (blockIdx.x == 0 && threadIdx.x == 0) a.indptr[0] = 0;
  const RowPart part = row_part<Warps>(a.rows, a.cols, warp);
  if (part.row < 0) return;  // for the whole block, where its warps share a row
  constexpr bool kMasked = sizeof(S) == 1;
  const S* source = static_cast<const S*>(kMasked ? a.mask : a.values) +
                    part.row * (kMasked ? a.mask_stride : a.stride);
  int count = count_kept(source, part.begin, part.end, lane);
  if constexpr (Warps > 1) {
    if (lane == 0) counts[warp] = count;
    __syncthreads();  // orders the writes of the warps' counts before their reads
    count = 0;
    for (int w = 0; w < Warps; ++w) count += counts[w];
    if (warp != 0) return;
  }
  if (lane == 0) a.indptr[part.row + 1] = count;
}

/// Writes the entries that are kept where indptr has room for them. The matrix may have changed
/// since they were counted: entries that are too many are left out, and room that is left gets
/// zeros in column 0, so that whatever is written elsewhere, no index is out of range.
template <class U, bool Masked, int Warps>
__global__ void __launch_bounds__(kDenseThreads) csr_fill_rows(DenseToCsrArgs a) {
  __shared__ int counts[kDenseWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const RowPart part = row_part<Warps>(a.rows, a.cols, warp);
  if (part.row < 0) return;  // for the whole block, where its warps share a row
  const U* values = static_cast<const U*>(a.values) + part.row * a.stride;
  const std::uint8_t* mask = Masked ? a.mask + part.row * a.mask_stride : nullptr;
  std::int64_t to = a.indptr[part.row], end = a.indptr[part.row + 1];
  if constexpr (Warps > 1) {
    const int count = Masked ? count_kept(mask, part.begin, part.end, lane)
                             : count_kept(values, part.begin, part.end, lane);
    if (lane == 0) counts[warp] = count;
    __syncthreads();  // orders the writes of the warps' counts before their reads
    for (int w = 0; w < warp; ++w) to += counts[w];
    if (warp + 1 < Warps) {
      end = to + counts[warp] < end ? to + counts[warp] : end;
    }
  }
  U* out = static_cast<U*>(a.out);
  const unsigned before = (1u << lane) - 1;  // the lanes of lower columns
#pragma unroll 4
  for (std::int64_t base = part.begin; base < part.end; base += 32) {
    const std::int64_t j = base + lane;
    const bool inside = j < part.end;
    const U value = inside ? values[j] : U{0};
    const bool kept = Masked ? inside && is_kept(mask[j]) : is_kept(value);
    const unsigned votes = __ballot_sync(kAllLanes, kept);
    const std::int64_t p = to + __popc(votes & before);
    if (kept && p < end) {
      a.indices[p] = static_cast<int>(j);
      if constexpr (sizeof(U) > 1) out[p] = value;  // a mark has no value
    }
    to += __popc(votes);
  }
  for (std::int64_t p = to + lane; p < end; p += 32) {
    a.indices[p] = 0;
    if constexpr (sizeof(U) > 1) out[p] = U{0};
  }
}

// Back to dense.

struct CsrToDenseArgs {
  const int* indptr;
  const int* indices;
  const void* values;
  int rows, cols;
  void* out;
  std::int64_t stride;
};

/// How many columns a warp writes, in tiles that it assembles in shared memory.
inline constexpr int kDenseColumns = 4096, kDenseTile = 512;
static_assert(kDenseTile * kDenseWarps * sizeof(std::uint64_t) <= kDefaultSharedBytes);

/// The first of the increasing indices[low, high) that is at least `column`.
__device__ inline int first_from(const int* __restrict__ indices, int low, int high,
                                 std::int64_t column) {
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (indices[middle] < column) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

template <class U>
__global__ void __launch_bounds__(kDenseThreads) csr_to_dense_rows(CsrToDenseArgs a) {
  __shared__ U tiles[kDenseWarps][kDenseTile];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  U* tile = tiles[threadIdx.x / 32];
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * kDenseWarps + static_cast<int>(threadIdx.x) / 32;
  if (row >= a.rows) return;
  const U* values = static_cast<const U*>(a.values);
  U* out = static_cast<U*>(a.out) + row * a.stride;
  const int last = a.indptr[row + 1];
  for (std::int64_t part = static_cast<std::int64_t>(blockIdx.y) * kDenseColumns; part < a.cols;
       part += static_cast<std::int64_t>(gridDim.y) * kDenseColumns) {
    const std::int64_t end = part + kDenseColumns < a.cols ? part + kDenseColumns : a.cols;
    int p = part == 0 ? a.indptr[row] : first_from(a.indices, a.indptr[row], last, part);
    for (std::int64_t begin = part; begin < end; begin += kDenseTile) {
      const int width = static_cast<int>(end - begin < kDenseTile ? end - begin : kDenseTile);
      for (int i = lane; i < width; i += 32) tile[i] = U{0};
      __syncwarp();  // orders the zeros before the entries
      for (bool more = true; more;) {
        const bool inside = last - p > lane && a.indices[p + lane] < begin + width;
        if (inside) tile[a.indices[p + lane] - begin] = values[p + lane];
        const int taken = __popc(__ballot_sync(kAllLanes, inside));
        p += taken;
        more = taken == 32;
      }
      __syncwarp();  // orders the entries before the reads of the tile
      for (int i = lane; i < width; i += 32) out[begin + i] = tile[i];
      __syncwarp();  // orders these reads before the zeros of the next tile
    }
  }
}

}  // namespace gossamer::cuda
