#pragma once

// Writes group-quantised matrices out in full: a warp has a row.

#include "formats/quant/kernels/quant_rows.cuh"

namespace gossamer::cuda {

inline constexpr int kQuantDenseThreads = 256;

template <class T>
__global__ void __launch_bounds__(kQuantDenseThreads)
    quant_write_rows(QuantRows a, T* out, std::int64_t stride) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * (kQuantDenseThreads / 32) + thread / 32;
  if (row >= a.rows) return;
  T* const to = out + row * stride;
  int p = a.indptr[row];
  const int end = a.indptr[row + 1];
  for (std::int64_t first = 0; first < a.cols; first += a.group) {
    const bool kept = p < end && static_cast<std::int64_t>(a.indices[p]) * a.group == first;
    for (int j = lane; j < a.group && first + j < a.cols; j += 32) {
      Sum<T> value = 0;
      if (kept) {
        const std::uint8_t* const codes =
            a.codes + static_cast<std::int64_t>(p) * (a.group * a.bits / 8);
        value =
            Sum<T>(quant_code(codes, j, a.bits) - a.zeros[p]) * Sum<T>(__half2float(a.scales[p]));
      }
      to[first + j] = narrow<T>(value);
    }
    p += kept ? 1 : 0;
  }
}

}  // namespace gossamer::cuda
