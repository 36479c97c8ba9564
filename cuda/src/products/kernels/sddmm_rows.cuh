#pragma once

// Sampled A · Bᵀ. A warp handles 32 neighbouring entries at a time, whatever their rows. Lanes side
// by side along the depth form groups; each group computes four entries, whose sums are added over
// its lanes together. The work is divided by entries, so rows of any length are balanced. If the
// pattern has blocks, the entries are the elements of the blocks. Of several sets of operands on
// one pattern the grid has one in y; where each has rows of its own in it, the row tells the set.
//
// For four entries of one row and 16-byte vectors of half precision, a group issues 1 + 4 LDG.128,
// 40 conversions and 32 FMA for 32 products (float: 1 + 4 and 16 for 16). A row of B that is in L2
// is 2 bytes a product (float: 4): at some 40 bytes a clock and SM that is a bound of 20 (10)
// products a clock and SM; the instructions bound it at 50 (90).

#include "base/kernels/numbers.cuh"
#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"
#include "products/kernels/sddmm_dense.cuh"
#include "products/kernels/sets.cuh"

namespace gossamer::cuda {

template <class T>
struct SddmmArgs {
  const int* indptr;
  const int* indices;
  int rows;                    // of the pattern: rows, or rows of blocks
  int block_rows, block_cols;  // 1 for a pattern without blocks
  std::int64_t nnz;            // entries; for blocks, their elements
  SddmmDense<T> dense;
  int log_group;  // log2 of the lanes of a group, at least 2
  int tiles;      // tiles of 32 entries that a warp handles
  // Without blocks.
  Sum<T> scale;  // of the products
  float* wide;   // if not null, takes the result in place of out
  Sets sets;     // its stacks are the sets of one y
  SetSteps a_steps, b_steps;
};

inline constexpr int kSddmmThreads = 128;
inline constexpr int kSddmmEntries = 4;

/// V is the number of elements of a vector along the depth.
template <class T, int V, bool Blocks>
__device__ __forceinline__ void sddmm_entries(const SddmmArgs<T>& a) {
  using S = Sum<T>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int lanes = 1 << a.log_group, g = lane & (lanes - 1), group = lane >> a.log_group;
  const int groups = 32 >> a.log_group;
  const std::int64_t warp =
      (static_cast<std::int64_t>(blockIdx.x) * kSddmmThreads + threadIdx.x) / 32;
  const std::int64_t vectors = a.dense.depth - a.dense.depth % V;
  const std::int64_t size =
      Blocks ? static_cast<std::int64_t>(a.block_rows) * a.block_cols : std::int64_t{1};
  const T *left = a.dense.a, *right = a.dense.b;
  std::int64_t out0 = 0;
  if (!Blocks && a.sets.several) {
    const unsigned set = (a.sets.first + blockIdx.y) * a.sets.stacks;
    left += a.sets.offset(set, a.a_steps);
    right += a.sets.offset(set, a.b_steps);
    out0 = static_cast<std::int64_t>(blockIdx.y) * a.nnz;
  }
  int first_row = 0;
  for (int tile = 0; tile < a.tiles; ++tile) {
    const std::int64_t base = (warp * a.tiles + tile) * 32;
    if (base >= a.nnz) return;
    const std::int64_t last = least<std::int64_t>(base + 31, a.nnz - 1);
    // Lanes beyond the last entry compute the last one again; their results are not written.
    const std::int64_t p = least(base + lane, last);
    // Where the entries are in `indices`.
    const auto first_place = static_cast<int>(base / size);
    const auto last_place = static_cast<int>(last / size), place = static_cast<int>(p / size);
    if (tile == 0 || a.indptr[first_row + 1] <= first_place) {
      first_row = row_of(a.indptr, first_row, a.rows, first_place, lane);
    }
    int row = first_row;
    if (a.indptr[first_row + 1] <= last_place) {
      int high = row_of(a.indptr, first_row, a.rows, last_place, lane) + 1;
      while (high - row > 1) {
        const int middle = row + (high - row) / 2;
        if (a.indptr[middle] <= place) {
          row = middle;
        } else {
          high = middle;
        }
      }
    }
    int column = a.indices[place];
    if constexpr (Blocks) {
      const auto within = static_cast<int>(p - place * size);
      row = row * a.block_rows + within / a.block_cols;
      column = column * a.block_cols + within % a.block_cols;
    }
    // From the first set's matrices to those of this row's.
    std::int64_t left_step = 0, right_step = 0;
    const bool stacked = !Blocks && a.sets.stacks > 1;
    const int whole_row = row;
    if (stacked) {
      const auto stack = static_cast<unsigned>(row / a.sets.rows);
      row -= static_cast<int>(stack) * a.sets.rows;
      const unsigned set = (a.sets.first + blockIdx.y) * a.sets.stacks;
      left_step = a.sets.offset(set + stack, a.a_steps) - a.sets.offset(set, a.a_steps);
      right_step = a.sets.offset(set + stack, a.b_steps) - a.sets.offset(set, a.b_steps);
    }
    // Whether the entries of each group share a row.
    const int shared_row = __shfl_sync(kAllLanes, whole_row, lane & ~(kSddmmEntries - 1));
    const bool one_row = __all_sync(kAllLanes, whole_row == shared_row) != 0;

    for (int e0 = 0; e0 < 32 && base + e0 <= last; e0 += groups * kSddmmEntries) {
      const int e = e0 + group * kSddmmEntries;
      const T* x[kSddmmEntries];
      const T* y[kSddmmEntries];
#pragma unroll
      for (int k = 0; k < kSddmmEntries; ++k) {
        x[k] = left + __shfl_sync(kAllLanes, row, e + k) * a.dense.lda;
        y[k] = right + __shfl_sync(kAllLanes, column, e + k) * a.dense.ldb;
        if (stacked) {
          x[k] += __shfl_sync(kAllLanes, left_step, e + k);
          y[k] += __shfl_sync(kAllLanes, right_step, e + k);
        }
      }
      S sums[kSddmmEntries] = {};
      if (one_row) {
#pragma unroll 1
        for (std::int64_t d = g * V; d < vectors; d += lanes * V) {
          Pack<T, V> v[kSddmmEntries];
          const Pack<T, V> u = load_pack<V>(x[0] + d);
#pragma unroll
          for (int k = 0; k < kSddmmEntries; ++k) v[k] = load_pack<V>(y[k] + d);
#pragma unroll
          for (int i = 0; i < V; ++i) {
            const S factor = widen(u.at[i]);
#pragma unroll
            for (int k = 0; k < kSddmmEntries; ++k) sums[k] += factor * widen(v[k].at[i]);
          }
        }
      } else {
#pragma unroll 1
        for (std::int64_t d = g * V; d < vectors; d += lanes * V) {
#pragma unroll
          for (int k = 0; k < kSddmmEntries; ++k) {
            const Pack<T, V> u = load_pack<V>(x[k] + d), v = load_pack<V>(y[k] + d);
#pragma unroll
            for (int i = 0; i < V; ++i) sums[k] += widen(u.at[i]) * widen(v.at[i]);
          }
        }
      }
      if constexpr (V > 1) {
        for (std::int64_t d = vectors + g; d < a.dense.depth; d += lanes) {
#pragma unroll
          for (int k = 0; k < kSddmmEntries; ++k) sums[k] += widen(x[k][d]) * widen(y[k][d]);
        }
      }
      const S total = reduce_many(sums, lanes, lane);
      const std::int64_t entry = base + e + summand_of<kSddmmEntries>(g);
      if (g < kSddmmEntries && entry <= last) {
        const auto write = [&](auto* to, S scaled) {
          using To = std::remove_pointer_t<decltype(to)>;
          *to = narrow<To>(a.dense.accumulate ? scaled + widen(*to) : scaled);
        };
        if constexpr (Blocks) {
          write(a.dense.out + entry, total);
        } else if (sizeof(T) == 2 && a.wide != nullptr) {
          if constexpr (sizeof(T) == 2) write(a.wide + out0 + entry, total * a.scale);
        } else {
          write(a.dense.out + out0 + entry, total * a.scale);
        }
      }
    }
  }
}

// Pairs of doubles of several sets do not fit into a sixth of the registers.
template <class T, int V>
__global__ void __launch_bounds__(kSddmmThreads, V == 2 ? 5 : 6) csr_sddmm(SddmmArgs<T> a) {
  sddmm_entries<T, V, false>(a);
}

template <class T, int V>
__global__ void __launch_bounds__(kSddmmThreads, 6) bsr_sddmm(SddmmArgs<T> a) {
  sddmm_entries<T, V, true>(a);
}

}  // namespace gossamer::cuda
