#pragma once

// Growth in places of a list. Of equal places the first counts: it leaves its number in the place.
// What is chosen by is then an array of all places, so that equal scores are ordered by place.

#include "prune/kernels/keys.cuh"
#include "regrow/kernels/drop_grow.cuh"

namespace gossamer::cuda {

struct GrowListArgs {
  const void *row, *column;  // int32 or int64
  std::int64_t row_stride, column_stride, count;
  bool wide_rows, wide_columns;
  std::int64_t rows, cols;
  unsigned* first;       // [rows][cols], 0xffffffff at first
  unsigned* outside;     // the first place outside of the matrix, 0xffffffff at first
  std::uint8_t* places;  // nonzero where something may grow
  void* scores;          // [rows][cols]
};

struct GrowPlace {
  std::int64_t row, column;
};

__device__ inline GrowPlace grow_place(const GrowListArgs& a, std::int64_t i) {
  const auto at = [](const void* data, bool wide, std::int64_t place) {
    return wide ? static_cast<const std::int64_t*>(data)[place]
                : std::int64_t{static_cast<const int*>(data)[place]};
  };
  return {at(a.row, a.wide_rows, i * a.row_stride),
          at(a.column, a.wide_columns, i * a.column_stride)};
}

static __global__ void __launch_bounds__(kMaskThreads) grow_list_first(GrowListArgs a) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kMaskThreads + static_cast<int>(threadIdx.x);
  if (i >= a.count) return;
  const GrowPlace place = grow_place(a, i);
  const bool inside =
      place.row >= 0 && place.row < a.rows && place.column >= 0 && place.column < a.cols;
  atomicMin(inside ? a.first + place.row * a.cols + place.column : a.outside,
            static_cast<unsigned>(i));
}

/// Where nothing was listed, nothing may grow; elsewhere the score, or where that has no array, one
/// that falls from place to place of the list.
template <class S>
__global__ void __launch_bounds__(kMaskThreads)
    grow_list_scores(const __grid_constant__ GrowListArgs a,
                     const __grid_constant__ ScoreArgs score) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kMaskThreads + static_cast<int>(threadIdx.x);
  if (i >= a.rows * a.cols) return;
  const unsigned own = a.first[i];
  const bool open = own != 0xffffffffu && a.places[i] != 0;
  a.places[i] = open ? 1 : 0;
  S value = 0;
  if (open) value = score.w == nullptr ? -static_cast<S>(own) : score_at<S>(score, own);
  static_cast<S*>(a.scores)[i] = value;
}

}  // namespace gossamer::cuda
