#pragma once

// Rows of a layout from masks and from lists, a row by a warp: they are counted, and written.

#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

inline constexpr int kLayoutWarps = 8;
/// The most columns of a list: each lane has every 32nd, and a bit of a 64-bit word for each.
inline constexpr int kMostListed = 2048;

struct LayoutStatus {
  /// The first error: 2·e for entry e, a column out of range; 2·r + 1 for the count of row r; all
  /// ones where there is none.
  unsigned long long error;
  unsigned long long total;  // blocks
};

/// An array [B, H, Mb, n] of which a row is r = (b·H + h)·Mb + i.
struct LayoutPlaces {
  std::int64_t heads, rows;
  std::int64_t batch_stride, head_stride, row_stride, stride;

  __host__ __device__ std::int64_t at(std::int64_t r) const {
    return r / rows / heads * batch_stride + r / rows % heads * head_stride + r % rows * row_stride;
  }
};

/// Calls emit(place, column) for what a row keeps, and returns how many that are.
struct LayoutMaskRows {
  const std::uint8_t* data;
  LayoutPlaces places;
  int cols;

  template <class Emit>
  __device__ int visit(std::int64_t r, int lane, LayoutStatus* /*status*/, bool /*write*/,
                       const Emit& emit) const {
    const std::uint8_t* from = data + places.at(r);
    int count = 0;
    for (std::int64_t j0 = 0; j0 < cols; j0 += 32) {
      const std::int64_t j = j0 + lane;
      const bool kept = j < cols && from[j * places.stride] != 0;
      const unsigned all = __ballot_sync(kAllLanes, kept);
      if (kept) emit(count + __popc(all & ((1u << lane) - 1)), static_cast<int>(j));
      count += __popc(all);
    }
    return count;
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
  __device__ int visit(std::int64_t r, int lane, LayoutStatus* status, bool write,
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
      for (int e = lane; e < count; e += 32) emit(e, column(e));
      return count;
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
      if ((firsts >> t & 1) != 0) emit(place, own);
    }
    return count;
  }
};

template <class Rows>
__global__ void __launch_bounds__(32 * kLayoutWarps, 4)
    layout_count_rows(const Rows source, std::int64_t rows, int* counts, LayoutStatus* status) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kLayoutWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const int count = source.visit(r, lane, status, false, [](int, int) {});
  if (lane != 0) return;
  counts[r] = count;
  atomicAdd(&status->total, static_cast<unsigned long long>(count));
}

template <class Rows>
__global__ void __launch_bounds__(32 * kLayoutWarps, 4)
    layout_fill_rows(const Rows source, std::int64_t rows, const int* indptr, int* indices) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kLayoutWarps + threadIdx.x / 32;
  if (r >= rows) return;
  // What the source holds may have changed since it was counted.
  const int begin = indptr[r], room = indptr[r + 1] - begin;
  source.visit(r, lane, nullptr, true, [&](int place, int column) {
    if (place < room) indices[begin + place] = column;
  });
}

}  // namespace gossamer::cuda
