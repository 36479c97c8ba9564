#pragma once

// Rows of a layout, a row by a warp: they are counted, and written.

#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"
#include "gossamer/detail/philox.h"

namespace gossamer::cuda {

inline constexpr int kLayoutWarps = 8;
/// The most columns of a list: each lane has every 32nd, and a bit of a 64-bit word for each.
inline constexpr int kMostListed = 2048;

struct LayoutStatus {
  /// The first error: 2·e for entry e, a column out of range; 2·r + 1 for the count of row r; all
  /// ones where there is none.
  unsigned long long error;
  unsigned long long total;  // blocks
  unsigned long long bits;   // of them, those of kind 2
};

/// How many blocks a row keeps, and how many of them are of kind 2.
struct LayoutRowCount {
  int blocks, bits;
};

/// An array [B, H, Mb, n] of which a row is r = (b·H + h)·Mb + i.
struct LayoutPlaces {
  std::int64_t heads, rows;
  std::int64_t batch_stride, head_stride, row_stride, stride;

  __host__ __device__ std::int64_t at(std::int64_t r) const {
    return r / rows / heads * batch_stride + r / rows % heads * head_stride + r % rows * row_stride;
  }
};

/// Calls emit(place, column, kind) for what a row keeps, and returns how many that are.
struct LayoutMaskRows {
  const std::uint8_t* data;
  LayoutPlaces places;
  int cols;

  template <class Emit>
  __device__ LayoutRowCount visit(std::int64_t r, int lane, LayoutStatus* /*status*/,
                                  bool /*write*/, const Emit& emit) const {
    const std::uint8_t* from = data + places.at(r);
    int count = 0;
    for (std::int64_t j0 = 0; j0 < cols; j0 += 32) {
      const std::int64_t j = j0 + lane;
      const bool kept = j < cols && from[j * places.stride] != 0;
      const unsigned all = __ballot_sync(kAllLanes, kept);
      if (kept) emit(count + __popc(all & ((1u << lane) - 1)), static_cast<int>(j), 0);
      count += __popc(all);
    }
    return {.blocks = count, .bits = 0};
  }
};

struct LayoutIntegers {
  const void* data;
  bool wide;

  __device__ std::int64_t operator[](std::int64_t i) const {
    return wide ? static_cast<const std::int64_t*>(data)[i]
                : static_cast<const std::int32_t*>(data)[i];
  }
};

struct LayoutListRows {
  LayoutIntegers indices, counts;  // counts may have no data
  LayoutPlaces places, count_places;
  int width;  // of all lists
  int cols;

  __device__ int length(std::int64_t r, LayoutStatus* status) const {
    if (counts.data == nullptr) return width;
    const std::int64_t n = counts[count_places.at(r)];
    if (n >= 0 && n <= width) return static_cast<int>(n);
    if (status != nullptr) atomicMin(&status->error, 2ull * static_cast<unsigned long long>(r) + 1);
    return 0;
  }

  template <class Emit>
  __device__ LayoutRowCount visit(std::int64_t r, int lane, LayoutStatus* status, bool write,
                                  const Emit& emit) const {
    const int n = length(r, status);
    const std::int64_t from = places.at(r);
    // -1 where there is no column.
    const auto column = [&](int e) {
      const std::int64_t x = e < n ? indices[from + e * places.stride] : -1;
      return x >= 0 && x < cols ? static_cast<int>(x) : -1;
    };
    bool sorted = true;
    int count = 0;
    for (int e0 = 0; e0 < n; e0 += 32) {
      const int e = e0 + lane, own = column(e);
      if (status != nullptr && e < n && own < 0 && indices[from + e * places.stride] != -1) {
        atomicMin(&status->error,
                  2ull * (static_cast<unsigned long long>(r) * static_cast<unsigned>(width) +
                          static_cast<unsigned>(e)));
      }
      const int before = e > 0 ? column(e - 1) : -1;
      const bool ordered = own < 0 || e == 0 || (before >= 0 && before < own);
      sorted = __ballot_sync(kAllLanes, !ordered) == 0 && sorted;
      count += __popc(__ballot_sync(kAllLanes, own >= 0));
    }
    if (sorted) {
      for (int e = lane; e < count; e += 32) emit(e, column(e), 0);
      return {.blocks = count, .bits = 0};
    }
    // Of equal columns the first counts; it stands behind those that are smaller.
    std::uint64_t firsts = 0;
    count = 0;
    for (int t = 0; 32 * t < n; ++t) {
      const int e = 32 * t + lane, own = column(e);
      bool first = own >= 0;
      for (int f = 0; f < e; ++f) first = first && column(f) != own;
      if (first) firsts |= std::uint64_t{1} << t;
      count += __popc(__ballot_sync(kAllLanes, first));
    }
    for (int t = 0; write && 32 * t < n; ++t) {
      const int own = column(32 * t + lane);
      int place = 0;
      for (int s = 0; 32 * s < n; ++s) {
        const unsigned there = __ballot_sync(kAllLanes, (firsts >> s & 1) != 0);
        for (int f = 0; f < 32; ++f) {
          if ((there >> f & 1) != 0 && column(32 * s + f) < own) ++place;
        }
      }
      if ((firsts >> t & 1) != 0) emit(place, own, 0);
    }
    return {.blocks = count, .bits = 0};
  }
};

/// Ranges of global blocks, and random blocks of a row, that a launch has room for.
inline constexpr int kMostGlobalRanges = 64;
inline constexpr int kMostRandomBlocks = 128;

/// LocalStride, WindowGlobal and Slashes (gossamer/layout.h): whether a block is kept follows from
/// its row and column, but for random ones.
struct LayoutRuleRows {
  enum class Rule : std::uint8_t { local_stride, window, slashes };

  Rule rule;
  std::int64_t rows, cols;
  // Of local_stride.
  std::int64_t local, stride, head_shift, dense_heads;
  // Of window.
  std::int64_t before, after, random;
  std::uint64_t seed;
  bool causal;
  int ranges;
  int begins[kMostGlobalRanges], ends[kMostGlobalRanges];
  // Of slashes: those of a head are a row of `places`, of which the launch has one row each.
  LayoutIntegers distances;
  LayoutPlaces places;
  std::int64_t tokens, bm, bn;
  int width;

  __device__ bool is_global(std::int64_t i) const {
    for (int g = 0; g < ranges; ++g) {
      if (i >= begins[g] && i < ends[g]) return true;
    }
    return false;
  }
  /// Columns from this one on are not kept.
  __device__ std::int64_t limit(std::int64_t i) const {
    if (rule == Rule::local_stride) return i + 1;
    if (rule == Rule::window) return causal && i + 1 < cols ? i + 1 : cols;
    const std::int64_t end = last_token(i) / bn + 1;
    return end < cols ? end : cols;
  }
  __device__ std::int64_t last_token(std::int64_t i) const {
    return ((i + 1) * bm < tokens ? (i + 1) * bm : tokens) - 1;
  }
  __device__ bool keeps(std::int64_t head, std::int64_t i, std::int64_t j, bool whole_row) const {
    if (rule == Rule::local_stride) {
      if (head < dense_heads || i - j < local) return true;
      return (j + 1 + head % stride * (head_shift % stride)) % stride == 0;
    }
    if (rule == Rule::window) {
      return whole_row || (i - j <= before && j - i <= after) || is_global(j);
    }
    const std::int64_t first = i * bm, last = last_token(i), from = places.at(head);
    for (int k = 0; k < width; ++k) {
      const std::int64_t d = distances[from + k * places.stride];
      if (d < 0 || d > last) continue;
      const std::int64_t low = first > d ? first - d : 0;
      if (j * bn <= last - d && (j + 1) * bn > low) return true;
    }
    return false;
  }
  /// Of kind 1: an option of the attention will mask a part of it.
  __device__ int kind(std::int64_t i, std::int64_t j) const {
    return i == j && (rule == Rule::local_stride || (rule == Rule::window && causal)) ? 1 : 0;
  }

  template <class Emit>
  __device__ LayoutRowCount visit(std::int64_t r, int lane, LayoutStatus* status, bool write,
                                  const Emit& emit) const {
    const std::int64_t head = r / rows, i = r % rows, end = limit(i);
    if (rule == Rule::slashes && status != nullptr) {
      for (int k = lane; k < width; k += 32) {
        const std::int64_t d = distances[places.at(head) + k * places.stride];
        if (d < -1 || d >= tokens) {
          atomicMin(&status->error,
                    2ull * (static_cast<unsigned long long>(head) * static_cast<unsigned>(width) +
                            static_cast<unsigned>(k)));
        }
      }
    }
    const bool whole_row = rule == Rule::window && is_global(i);
    const bool draws = rule == Rule::window && random > 0 && !whole_row;
    int wanted = 0;
    int ranks[kMostRandomBlocks / 32] = {};
    if (draws) {
      int there = 0;
      for (std::int64_t j0 = 0; j0 < end; j0 += 32) {
        const std::int64_t j = j0 + lane;
        there += __popc(__ballot_sync(kAllLanes, j < end && keeps(head, i, j, false)));
      }
      const std::int64_t left = (end > 0 ? end : 0) - there;
      wanted = static_cast<int>(random < left ? random : left);
      if (!write) return {.blocks = there + wanted, .bits = 0};
      draw(r, left, wanted, lane, ranks);
    }
    int count = 0;
    std::int64_t free = 0;  // columns so far that are not kept by the rule
    for (std::int64_t j0 = 0; j0 < end; j0 += 32) {
      const std::int64_t j = j0 + lane;
      bool kept = j < end && keeps(head, i, j, whole_row);
      if (wanted > 0) {
        const unsigned others = __ballot_sync(kAllLanes, j < end && !kept);
        const std::int64_t rank = free + __popc(others & ((1u << lane) - 1));
        bool picked = false;
#pragma unroll
        for (int s = 0; s < kMostRandomBlocks / 32; ++s) {
          for (int k = 0; k < 32 && 32 * s + k < wanted; ++k) {
            picked = __shfl_sync(kAllLanes, ranks[s], k) == rank || picked;
          }
        }
        kept = kept || (j < end && picked);
        free += __popc(others);
      }
      const unsigned all = __ballot_sync(kAllLanes, kept);
      if (kept) emit(count + __popc(all & ((1u << lane) - 1)), static_cast<int>(j), kind(i, j));
      count += __popc(all);
    }
    return {.blocks = count, .bits = 0};
  }

  /// Ranks among `left` columns, without repetition (Floyd), as the CPU draws them. Number k is in
  /// lane k mod 32.
  __device__ void draw(std::int64_t r, std::int64_t left, int wanted, int lane,
                       int (&ranks)[kMostRandomBlocks / 32]) const {
    for (int k = 0; k < wanted; ++k) {
      const std::int64_t top = left - wanted + k;
      const std::uint64_t word =
          detail::random_word(seed, static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(k));
      int rank = static_cast<int>((word * (static_cast<std::uint64_t>(top) + 1)) >> 32);
      bool drawn = false;
#pragma unroll
      for (int s = 0; s < kMostRandomBlocks / 32; ++s) {
        drawn = drawn || (32 * s + lane < k && ranks[s] == rank);
      }
      if (__ballot_sync(kAllLanes, drawn) != 0) rank = static_cast<int>(top);
#pragma unroll
      for (int s = 0; s < kMostRandomBlocks / 32; ++s) {
        if (32 * s + lane == k) ranks[s] = rank;
      }
    }
  }
};

/// The entries of a pattern of single queries and keys.
struct LayoutTileRows {
  const int* indptr;
  const int* indices;
  std::int64_t columns, tokens, rows, bm, bn;

  /// The first entry of a row at a column from this one on.
  __device__ int first_from(int begin, int end, std::int64_t column) const {
    while (begin < end) {
      const int middle = begin + (end - begin) / 2;
      if (indices[middle] < column) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  }

  /// 32 blocks at a time, a block by a lane, from the first block that has an entry on.
  template <class Emit>
  __device__ LayoutRowCount visit(std::int64_t r, int lane, LayoutStatus* /*status*/,
                                  bool /*write*/, const Emit& emit) const {
    const std::int64_t first = r % rows * bm;
    const std::int64_t height = bm < tokens - first ? bm : tokens - first;
    const int* pointers = indptr + r / rows * tokens + first;
    LayoutRowCount total{.blocks = 0, .bits = 0};
    for (std::int64_t next = 0; next < columns;) {
      const std::int64_t c = next / bn + lane, low = c * bn;
      const std::int64_t left = low < columns ? columns - low : 0;
      const std::int64_t width = bn < left ? bn : left;
      std::int64_t entries = 0, after = columns;
      for (std::int64_t i = 0; i < height; ++i) {
        const int end = pointers[i + 1];
        const int begin = first_from(pointers[i], end, low);
        const int stop = first_from(begin, end, low + width);
        entries += stop - begin;
        if (lane == 31 && stop < end && indices[stop] < after) after = indices[stop];
      }
      const bool kept = entries > 0, partly = kept && entries < height * width;
      const unsigned all = __ballot_sync(kAllLanes, kept);
      if (kept) {
        emit(total.blocks + __popc(all & ((1u << lane) - 1)), static_cast<int>(c), partly ? 2 : 0);
      }
      total.blocks += __popc(all);
      total.bits += __popc(__ballot_sync(kAllLanes, partly));
      next = __shfl_sync(kAllLanes, static_cast<int>(after), 31);
    }
    return total;
  }
};

/// The second half of vertical-slash: of the keys that a head's list has in order, those up to the
/// row's last query that no block of the first half covers.
struct LayoutVerticalRows {
  const int* list_indptr;
  const int* lists;
  const int* slash_indptr;
  const int* slashes;
  std::int64_t rows, tokens, bm, bn;

  template <class Emit>
  __device__ LayoutRowCount visit(std::int64_t r, int lane, LayoutStatus* /*status*/,
                                  bool /*write*/, const Emit& emit) const {
    const std::int64_t i = r % rows;
    const std::int64_t last = ((i + 1) * bm < tokens ? (i + 1) * bm : tokens) - 1;
    const int begin = list_indptr[r / rows], end = list_indptr[r / rows + 1];
    int count = 0;
    for (int e0 = begin; e0 < end; e0 += 32) {
      const int own = e0 + lane < end ? lists[e0 + lane] : -1;
      const bool kept = own >= 0 && own <= last && !covered(r, own / bn);
      const unsigned all = __ballot_sync(kAllLanes, kept);
      if (kept) emit(count + __popc(all & ((1u << lane) - 1)), own, 0);
      count += __popc(all);
    }
    return {.blocks = count, .bits = 0};
  }
  __device__ bool covered(std::int64_t r, std::int64_t block) const {
    int low = slash_indptr[r], high = slash_indptr[r + 1];
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (slashes[middle] == block) return true;
      if (slashes[middle] < block) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return false;
  }
};

template <class Rows>
__global__ void __launch_bounds__(32 * kLayoutWarps, 4)
    layout_count_rows(const Rows source, std::int64_t rows, int* counts, LayoutStatus* status) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kLayoutWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const LayoutRowCount count = source.visit(r, lane, status, false, [](int, int, int) {});
  if (lane != 0) return;
  counts[r] = count.blocks;
  atomicAdd(&status->total, static_cast<unsigned long long>(count.blocks));
  if (count.bits > 0) atomicAdd(&status->bits, static_cast<unsigned long long>(count.bits));
}

/// Where a layout is written; `kinds` and `bit_counts`, how many of a row are of kind 2, may be
/// null.
struct LayoutFilled {
  int* indices;
  std::uint8_t* kinds;
  int* bit_counts;
};

template <class Rows>
__global__ void __launch_bounds__(32 * kLayoutWarps, 4)
    layout_fill_rows(const Rows source, std::int64_t rows, const int* indptr, LayoutFilled to) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kLayoutWarps + threadIdx.x / 32;
  if (r >= rows) return;
  // What the source holds may have changed since it was counted.
  const int begin = indptr[r], room = indptr[r + 1] - begin;
  const LayoutRowCount count =
      source.visit(r, lane, nullptr, true, [&](int place, int column, int kind) {
        if (place >= room) return;
        to.indices[begin + place] = column;
        if (to.kinds != nullptr) to.kinds[begin + place] = static_cast<std::uint8_t>(kind);
      });
  if (to.bit_counts != nullptr && lane == 0) to.bit_counts[r] = count.bits;
}

/// The bits of the blocks of kind 2, of which a row's end at bit_ends[r]. Each lane has rows of a
/// block, whose bytes no other writes.
[[maybe_unused]] static __global__ void __launch_bounds__(32 * kLayoutWarps, 4)
    layout_fill_bits(const LayoutTileRows source, std::int64_t rows, const int* indptr,
                     LayoutFilled from, std::uint8_t* bits, std::int64_t blocks) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kLayoutWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const std::int64_t first = r % source.rows * source.bm, pitch = (source.bn + 7) / 8;
  const std::int64_t height = source.bm < source.tokens - first ? source.bm : source.tokens - first;
  const int* pointers = source.indptr + r / source.rows * source.tokens + first;
  std::int64_t at = r > 0 ? from.bit_counts[r - 1] : 0;
  for (int block = indptr[r]; block < indptr[r + 1]; ++block) {
    if (from.kinds[block] != 2) continue;
    if (at >= blocks) return;  // the pattern has changed
    const std::int64_t low = from.indices[block] * source.bn;
    for (std::int64_t i = lane; i < source.bm; i += 32) {
      std::uint8_t* to = bits + (at * source.bm + i) * pitch;
      for (std::int64_t b = 0; b < pitch; ++b) to[b] = 0;
      if (i >= height) continue;
      const int end = pointers[i + 1];
      for (int p = source.first_from(pointers[i], end, low);
           p < end && source.indices[p] < low + source.bn; ++p) {
        const std::int64_t c = source.indices[p] - low;
        to[c / 8] = static_cast<std::uint8_t>(to[c / 8] | 1u << (c % 8));
      }
    }
    ++at;
  }
}

}  // namespace gossamer::cuda
