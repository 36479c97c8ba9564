#pragma once

// Numbers of any floating type to and from the type of their sums: double for float64, else float.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/args.h"
#include "base/kernels.h"
#include "base/pool.h"
#include "gossamer/tensor.h"

namespace gossamer::detail {

/// `rows` rows of n numbers, `stride` apart, to rows that are `ld` apart.
inline void widen(const void* from, DType type, std::int64_t stride, std::int64_t rows,
                  std::int64_t n, void* to, std::int64_t ld) {
  base_kernels().convert_tile({.src = from,
                               .src_type = type,
                               .stride = stride,
                               .transposed = false,
                               .rows = rows,
                               .cols = n,
                               .dst = to,
                               .ld = ld,
                               .pad = false,
                               .f64 = type == DType::f64});
}

/// The same to rows side by side.
inline void widen(const void* from, DType type, std::int64_t stride, std::int64_t rows,
                  std::int64_t n, void* to) {
  widen(from, type, stride, rows, n, to, n);
}

inline void widen(const void* from, DType type, std::int64_t n, void* to) {
  widen(from, type, n, 1, n, to);
}

/// All rows of a matrix, in parallel, to rows that are `ld` apart.
inline void widen_rows(const TensorView& x, void* to, std::int64_t ld) {
  const std::int64_t cols = x.shape[1], real = x.dtype == DType::f64 ? 8 : 4;
  constexpr std::int64_t kRows = 64;
  parallel_for((x.shape[0] + kRows - 1) / kRows, [&](std::int64_t task) {
    const std::int64_t row = task * kRows;
    const auto* from = static_cast<const std::byte*>(x.data);
    widen(from + row * x.strides[0] * size_of(x.dtype), x.dtype, x.strides[0],
          std::min(kRows, x.shape[0] - row), cols, static_cast<std::byte*>(to) + row * ld * real,
          ld);
  });
}

/// The same to rows side by side.
inline void widen_rows(const TensorView& x, void* to) { widen_rows(x, to, x.shape[1]); }

/// n sums, added to what is there or in its place.
inline void narrow(const void* sums, std::int64_t n, void* to, DType type,
                   bool accumulate = false) {
  base_kernels().store_tile({.tile = sums,
                             .ld = n,
                             .rows = 1,
                             .cols = n,
                             .out = to,
                             .out_type = type,
                             .stride = n,
                             .transposed = false,
                             .bias = nullptr,
                             .bias_by_row = false,
                             .activation = Activation::none,
                             .lo = 0,
                             .hi = 0,
                             .accumulate = accumulate,
                             .f64 = type == DType::f64});
}

}  // namespace gossamer::detail
