#pragma once

// C = A·B for few columns that are stored one after the other and a group-quantised matrix. A warp
// has a row; a lane takes eight codes at a time, which are in one group. The lanes' sums are added
// by shuffles in a fixed order.
//
// With 4 bits and groups of 16 an entry of 8.5 bytes has 16 weights. The eight codes of a lane take
// a load of 4 bytes, three of the group's index, scale and zero, one of 16 bytes of x, and 40 other
// instructions.

#include "base/kernels/epilogue.cuh"
#include "base/kernels/warp.cuh"
#include "products/kernels/quant_decoder.cuh"

namespace gossamer::cuda {

template <class T>
struct QuantDotsArgs {
  QuantRows a;
  const T* x;  // B(k, j) = x[k + j*ldx]
  std::int64_t ldx, n;
  bool wide;      // x can be read eight elements at a time
  bool by_words;  // codes can be read eight at a time
  T* out;         // C(i, j) = out[i*out_row + j*out_col]
  std::int64_t out_row, out_col;
  Finish<T> finish;
};

inline constexpr int kQuantThreads = 256;
/// Codes that a lane takes at a time.
inline constexpr int kQuantUnit = 8;

template <class T, int N>
__global__ void __launch_bounds__(kQuantThreads) quant_dots(QuantDotsArgs<T> a) {
  using S = Sum<T>;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * (kQuantThreads / 32) + thread / 32;
  if (row >= a.a.rows) return;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.y) * N;
  const int columns = static_cast<int>(least<std::int64_t>(a.n - column0, N));
  const T* const x = a.x + column0 * a.ldx;
  const int begin = a.a.indptr[row], end = a.a.indptr[row + 1];
  // Units of a group are a power of two.
  const int units = a.a.group / kQuantUnit, log_units = __ffs(units) - 1;
  S sums[N] = {};
#pragma unroll 2
  for (std::int64_t u = lane; u < static_cast<std::int64_t>(end - begin) << log_units; u += 32) {
    const std::int64_t p = begin + (u >> log_units);
    const int offset = static_cast<int>(u & (units - 1)) * kQuantUnit;
    const std::uint8_t* const codes = a.a.codes + (p * a.a.group + offset) * a.a.bits / 8;
    const int zero = a.a.zeros[p];
    S w[kQuantUnit];
    if (a.by_words) {
      const auto* const words = reinterpret_cast<const std::uint32_t*>(codes);
      std::uint32_t low = words[0], high = a.a.bits == 8 ? words[1] : low >> 16;
      const int step = a.a.bits;
      const std::uint32_t mask = (1u << step) - 1;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        w[i] = S(static_cast<int>(low >> (i * step) & mask) - zero);
        w[i + 4] = S(static_cast<int>(high >> (i * step) & mask) - zero);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kQuantUnit; ++i) w[i] = S(quant_code(codes, i, a.a.bits) - zero);
    }
    const std::int64_t column = static_cast<std::int64_t>(a.a.indices[p]) * a.a.group + offset;
    const S scale = S(__half2float(a.a.scales[p]));
    const bool whole = column + kQuantUnit <= a.a.cols;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      if (N > 1 && c >= columns) break;
      const T* const from = x + c * a.ldx + column;
      S part = S(0);
      if (whole && a.wide) {
        const auto pack = load_pack<kQuantUnit>(from);
#pragma unroll
        for (int i = 0; i < kQuantUnit; ++i) part += w[i] * widen(pack.at[i]);
      } else {
#pragma unroll
        for (int i = 0; i < kQuantUnit; ++i) {
          if (column + i < a.a.cols) part += w[i] * widen(from[i]);
        }
      }
      sums[c] += scale * part;
    }
  }
  const S total = reduce_many(sums, 32, lane);
  const int column = summand_of<N>(lane);
  if (lane < N && column < columns) {
    a.finish.store(a.out + row * a.out_row + (column0 + column) * a.out_col, total, row);
  }
}

}  // namespace gossamer::cuda
