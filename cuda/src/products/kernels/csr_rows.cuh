#pragma once

// C = A·B for row-major B. The lanes of a warp are divided among rows, entries and columns. The
// lanes of a row stage its entries in shared memory; then each slot (the lanes that share an entry)
// multiplies four entries at a time by vectors of B. Shuffles add up the slots. Rows longer than
// `cut` are cut into chunks at multiples of it; a warp sums up each chunk, and a second kernel adds
// the chunks in order. Of several sets of operands, the grid has one in z.
//
// For an entry and 16-byte vectors of half precision a warp issues 0.5 LDS + 1 IMAD.WIDE + 1
// LDG.128 + 8 conversions + 8 FMA = 18.5 instructions for 256 products (float: 6.5 for 128), and
// reads 512 bytes of a row of B: with B's tile in L2, 2 bytes a product (float: 4). At some 40
// bytes a clock and SM from L2, the loads take 13 clocks and the instructions 4.6. So L2 is the
// bound, with 20 products a clock and SM (float: 10).

#include "base/kernels/epilogue.cuh"
#include "base/kernels/warp.cuh"
#include "products/kernels/sets.cuh"

namespace gossamer::cuda {

template <class T>
struct CsrRowsArgs {
  const int* indptr;
  const int* indices;
  const T* values;
  int rows;
  const T* b;
  std::int64_t ldb;
  std::int64_t n;
  T* out;
  std::int64_t ldo;
  Finish<T> finish;
  Sum<T>* sums;          // if not null, receives the sums instead of out
  std::int64_t ld_sums;  // a multiple of 16 bytes
  int log_columns;       // log2 of the lanes side by side in a row of B
  int log_row;           // log2 of the lanes of a row of A; at least log_columns
  unsigned row_blocks;   // thread blocks for whole rows; the others take chunks
  std::int64_t cut;      // 0: no row is cut
  Sum<T>* partial;       // [sets, 2·chunks, n]: two parts a chunk, see part_of_chunk
  unsigned chunks;       // of a set
  Sets sets;
  SetSteps b_steps, out_steps;

  /// The row pointers of a set.
  __device__ const int* indptr_of(unsigned set) const {
    return indptr + static_cast<std::int64_t>(set % sets.stacks) * sets.rows;
  }
  __device__ Sum<T>* partial_of(unsigned set) const {
    return partial + static_cast<std::int64_t>(set - sets.first) * 2 * chunks * n;
  }
};

inline constexpr int kRowsThreads = 128;
inline constexpr int kRowsWarps = kRowsThreads / 32;
/// How many staged indices one read of 16 bytes brings.
inline constexpr int kQuad = 4;
/// Numbers of entries are unsigned, so that steps beyond 2^31 - 1 do not wrap.
using Entry = unsigned;

/// The entries of a row, or a chunk's part of them, or none.
struct EntryRange {
  Entry begin, end;
};

/// Part 0: the entries in chunk [first, last) of a long row that begins before it. Part 1: those of
/// a long row that begins in it. Chunks are counted from the first entry of the set's rows.
template <class T>
__device__ inline EntryRange part_of_chunk(const CsrRowsArgs<T>& a, const int* indptr,
                                           std::int64_t chunk, int part, int lane) {
  const auto nnz = static_cast<std::int64_t>(indptr[a.rows]);
  const std::int64_t first = indptr[0] + chunk * a.cut, last = least(first + a.cut, nnz);
  if (first >= nnz) return {0, 0};
  const int row = row_of(indptr, 0, a.rows, static_cast<int>(part == 0 ? first : last - 1), lane);
  const std::int64_t begin = indptr[row], end = indptr[row + 1];
  if (end - begin <= a.cut || (begin < first) != (part == 0)) return {0, 0};
  return {static_cast<Entry>(largest(begin, first)), static_cast<Entry>(least(end, last))};
}

/// How many thread blocks should fit on a multiprocessor; limits the registers of a thread.
template <class T>
constexpr int rows_blocks(int vectors) {
  constexpr bool wide = sizeof(T) == 8;
  return vectors == 1 ? (wide ? 6 : 8) : wide ? 4 : 6;
}

/// Each lane computes U vectors of V columns.
template <class T, int V, int U>
__global__ void __launch_bounds__(kRowsThreads, rows_blocks<T>(U))
    csr_rows(const CsrRowsArgs<T> a) {
  using S = Sum<T>;
  __shared__ __align__(16) int staged_index[kRowsWarps][32 * kQuad];
  __shared__ __align__(16) S staged_value[kRowsWarps][32 * kQuad];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const bool whole = blockIdx.x < a.row_blocks;
  const int log_row = whole ? a.log_row : 5;
  const int row_lanes = 1 << log_row, l = lane & (row_lanes - 1);

  // Blocks for whole rows skip long ones; each chunk of these makes two tasks, one for each part.
  const std::int64_t task =
      (static_cast<std::int64_t>(blockIdx.x) - (whole ? 0 : a.row_blocks)) * kRowsWarps + warp;
  const std::int64_t row = (task << (5 - log_row)) + (lane >> log_row);
  const int* indptr = a.indptr;
  const T *values = a.values, *b = a.b;
  unsigned set = 0;
  if (a.sets.several) {
    set = a.sets.first + blockIdx.z;
    indptr = a.indptr_of(set);
    values += set / a.sets.stacks * a.sets.values;
    b += a.sets.offset(set, a.b_steps);
  }
  EntryRange range = {0, 0};
  if (!whole) {
    range = part_of_chunk(a, indptr, task / 2, static_cast<int>(task % 2), lane);
    if (range.begin == range.end) return;
  } else if (row < a.rows) {
    range = {static_cast<Entry>(indptr[row]), static_cast<Entry>(indptr[row + 1])};
  }
  const bool skipped = whole && (row >= a.rows || (a.cut != 0 && range.end - range.begin > a.cut));
  if (skipped) range.end = range.begin;

  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.y) * ((U * V) << a.log_columns);
  const auto columns =
      static_cast<int>(least<std::int64_t>(a.n - column0, (U * V) << a.log_columns));
  const int group = l & ((1 << a.log_columns) - 1);
  const auto column = [&](int u) { return ((u << a.log_columns) + group) * V; };
  b += column0;
  int offset[U];
#pragma unroll
  for (int u = 0; u < U; ++u) {
    // Lanes beyond the last column read the tile's first one; their results are not written.
    offset[u] = column(u) < columns ? column(u) : 0;
  }

  S sums[U][V] = {};
  {
    const int slot = l >> a.log_columns, slots = row_lanes >> a.log_columns;
    Entry p = range.begin + static_cast<Entry>(l);  // the next entry that this lane fetches
    int left = static_cast<int>(range.end - range.begin);
    int index[kQuad];
    S value[kQuad];
    const auto fetch = [&] {
#pragma unroll
      for (int k = 0; k < kQuad; ++k) {
        const bool inside = p < range.end;
        index[k] = inside ? a.indices[p] : 0;
        value[k] = inside ? widen(values[p]) : S(0);
        p += static_cast<Entry>(row_lanes);
      }
    };
    fetch();
    // All rows of a warp take as many iterations as its longest.
    int longest = left;
    for (int mask = row_lanes; mask < 32; mask *= 2) {
      longest = largest(longest, __shfl_xor_sync(kAllLanes, longest, mask));
    }
    int* const row_index = staged_index[warp] + (lane - l) * kQuad;
    S* const row_value = staged_value[warp] + (lane - l) * kQuad;
    for (; longest > 0; longest -= kQuad * row_lanes, left -= kQuad * row_lanes) {
      __syncwarp();  // orders the reads of the last stage before these writes
#pragma unroll
      for (int k = 0; k < kQuad; ++k) {
        row_index[k * row_lanes + l] = index[k];
        row_value[k * row_lanes + l] = value[k];
      }
      __syncwarp();  // orders the writes before the reads
      fetch();       // the next stage, while this one is multiplied
      const int count = least(left, kQuad * row_lanes);
      for (int quad = slot; quad * kQuad < count; quad += slots) {
        const Pack<int, kQuad> j = load_pack<kQuad>(row_index + quad * kQuad);
        const Pack<S, kQuad> v = load_pack<kQuad>(row_value + quad * kQuad);
        if (quad * kQuad + kQuad <= count) {
          Pack<T, V> x[kQuad][U];
#pragma unroll
          for (int k = 0; k < kQuad; ++k) {
            const T* from = b + j.at[k] * a.ldb;
#pragma unroll
            for (int u = 0; u < U; ++u) x[k][u] = load_pack<V>(from + offset[u]);
          }
#pragma unroll
          for (int k = 0; k < kQuad; ++k) {
#pragma unroll
            for (int u = 0; u < U; ++u) {
#pragma unroll
              for (int i = 0; i < V; ++i) sums[u][i] += v.at[k] * widen(x[k][u].at[i]);
            }
          }
        } else {
#pragma unroll
          for (int k = 0; k < kQuad - 1; ++k) {
            if (quad * kQuad + k < count) {
              const T* from = b + j.at[k] * a.ldb;
#pragma unroll
              for (int u = 0; u < U; ++u) {
                const Pack<T, V> x = load_pack<V>(from + offset[u]);
#pragma unroll
                for (int i = 0; i < V; ++i) sums[u][i] += v.at[k] * widen(x.at[i]);
              }
            }
          }
        }
      }
    }
    for (int mask = 1 << a.log_columns; mask < row_lanes; mask *= 2) {
#pragma unroll
      for (int u = 0; u < U; ++u) {
#pragma unroll
        for (int i = 0; i < V; ++i) sums[u][i] += __shfl_xor_sync(kAllLanes, sums[u][i], mask);
      }
    }
    if (slot != 0 || skipped) return;
  }
  S* raw = a.sums != nullptr ? a.sums + row * a.ld_sums : nullptr;
  T* out = a.out;
  if (!whole) {
    raw = a.partial_of(set) + task * a.n;
  } else if (a.sets.several) {
    out += a.sets.offset(set, a.out_steps);
  }
#pragma unroll
  for (int u = 0; u < U; ++u) {
    if (column(u) >= columns) continue;
    if (raw != nullptr) {
#pragma unroll
      for (int i = 0; i < V; ++i) raw[column0 + column(u) + i] = sums[u][i];
    } else {
      a.finish.store_pack(out + row * a.ldo + column0 + column(u), sums[u], row);
    }
  }
}

/// For the row that begins in a chunk and continues beyond it, if there is one, adds the sums of
/// its chunks in order. Each thread has a column, and reads 4 bytes (double: 8) for each chunk.
template <class T>
__global__ void __launch_bounds__(32) csr_rows_join(const CsrRowsArgs<T> a) {
  using S = Sum<T>;
  const int lane = static_cast<int>(threadIdx.x);
  const unsigned set = a.sets.first + blockIdx.z;
  const int* const indptr = a.indptr_of(set);
  const std::int64_t nnz = indptr[a.rows], base = indptr[0], chunk = blockIdx.x;
  const std::int64_t first = base + chunk * a.cut, last = least(first + a.cut, nnz);
  if (first >= nnz) return;
  const int row = row_of(indptr, 0, a.rows, static_cast<int>(last - 1), lane);
  const std::int64_t begin = indptr[row], end = indptr[row + 1];
  if (begin < first || end - begin <= a.cut) return;
  const std::int64_t final_chunk = (end - 1 - base) / a.cut;
  const S* const partial = a.partial_of(set);
  T* const out = a.out + (a.sets.several ? a.sets.offset(set, a.out_steps) : 0);
  for (std::int64_t j = static_cast<std::int64_t>(blockIdx.y) * 32 + lane; j < a.n;
       j += static_cast<std::int64_t>(gridDim.y) * 32) {
    S sum = partial[(2 * chunk + 1) * a.n + j];
    for (std::int64_t c = chunk + 1; c <= final_chunk; ++c) sum += partial[2 * c * a.n + j];
    if (a.sums != nullptr) {
      a.sums[row * a.ld_sums + j] = sum;
    } else {
      a.finish.store(out + row * a.ldo + j, sum, row);
    }
  }
}

}  // namespace gossamer::cuda
