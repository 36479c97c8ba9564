#pragma once

// C = A·B for few columns of any layout: 8 to 256 threads a row, each takes four neighbouring
// entries at a time and adds them to a sum for each column; sums are added by shuffles, then across
// warps, in a fixed order. Rows longer than `cut` are taken by a whole block, after its others.
//
// An entry costs a thread, at 16-byte reads of indices, 0.5 loads for index and value, and N
// gathers from x. Columns ascend, so a warp's 128 neighbouring entries lie in 128/density elements
// of x: at 10 % and half precision 20 lines of 128 bytes, that is 5 L1 wavefronts a gather of 32. A
// is read once (6 bytes an entry in half precision, 8 in float): at 4.3 TB/s a 4096² layer of 10 %
// takes 2.3 µs in half precision. With one column the issues are some 6 an entry and lane.

#include "kernels/epilogue.cuh"
#include "kernels/warp.cuh"

namespace gossamer::cuda {

template <class T>
struct CsrThinArgs {
  const int* indptr;
  const int* indices;
  const T* values;
  int rows;
  unsigned quads;  // entries below this may be read four at a time
  const T* x;      // B(k, j) = x[k*stride_k + j*stride_n]
  std::int64_t stride_k, stride_n;
  std::int64_t n;
  T* out;  // C(i, j) = out[i*out_m + j*out_n]
  std::int64_t out_m, out_n;
  Finish<T> finish;
  int log_threads;  // threads of a row
  unsigned cut;     // 0: no row is long
};

inline constexpr int kThinThreads = 256;
inline constexpr int kThinMinLog = 3, kThinMaxLog = 8;

/// Blocks of a multiprocessor that the registers are shared out for.
template <class T>
constexpr int thin_blocks(int columns) {
  constexpr bool wide = sizeof(T) == 8;
  return columns == 1 ? (wide ? 5 : 6) : columns == 4 ? 4 : wide ? 2 : 3;
}

template <class T, int N>
__global__ void __launch_bounds__(kThinThreads, thin_blocks<T>(N))
    csr_thin(const CsrThinArgs<T> a) {
  static_assert(N <= 1 << kThinMinLog, "a row's threads hold one total each");
  using S = Sum<T>;
  __shared__ S partial[kThinThreads / 32][N];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int block_rows = kThinThreads >> a.log_threads;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * block_rows;
  const std::int64_t column0 = static_cast<std::int64_t>(blockIdx.y) * N;
  const int columns = static_cast<int>(least(a.n - column0, static_cast<std::int64_t>(N)));
  const T* x = a.x + column0 * a.stride_n;

  // Pass 0: each group of threads its row. Pass r+1: the block row r, if that is long.
  const int passes = a.cut == 0 ? 1 : 1 + block_rows;
  for (int pass = 0; pass < passes; ++pass) {
    const int log_threads = pass == 0 ? a.log_threads : kThinMaxLog;
    const int threads = 1 << log_threads, t = thread & (threads - 1);
    const std::int64_t row = row0 + (pass == 0 ? thread >> log_threads : pass - 1);
    unsigned begin = 0, end = 0;  // without a sign: steps beyond the last entry do not wrap
    bool mine = row < a.rows;
    if (mine) {
      begin = static_cast<unsigned>(a.indptr[row]);
      end = static_cast<unsigned>(a.indptr[row + 1]);
      mine = a.cut == 0 || (end - begin > a.cut) == (pass != 0);
    }
    if (pass != 0 && !mine) continue;  // the same for the whole block
    if (!mine) end = begin;

    S sums[N] = {};
    Pack<int, 4> index;
    Pack<T, 4> value;
    const auto fetch = [&](unsigned p) {
      if (p >= end) return;
      if (p < a.quads) {
        index = load_pack<4>(a.indices + p);
        value = load_pack<4>(a.values + p);
      } else {
#pragma unroll
        for (unsigned k = 0; k < 4; ++k) {
          const unsigned q = least(p + k, end - 1);
          index.at[k] = a.indices[q];
          value.at[k] = a.values[q];
        }
      }
    };
    // From the multiple of four at or before the first entry: what is read outside the row is an
    // entry of its neighbours, and is not added.
    unsigned p = (begin & ~3u) + 4 * static_cast<unsigned>(t);
    fetch(p);
    for (; p < end; p += 4 * static_cast<unsigned>(threads)) {
      const Pack<int, 4> j = index;
      const Pack<T, 4> v = value;
      fetch(p + 4 * static_cast<unsigned>(threads));
#pragma unroll
      for (unsigned k = 0; k < 4; ++k) {
        if (p + k >= begin && p + k < end) {
          const T* from = x + j.at[k] * a.stride_k;
          const S factor = widen(v.at[k]);
#pragma unroll
          for (int c = 0; c < N; ++c) {
            if (N == 1 || c < columns) sums[c] += factor * widen(*from);
            from += a.stride_n;
          }
        }
      }
    }

    S total = reduce_many(sums, least(threads, 32), lane);
    const int column = summand_of<N>(t);
    if (threads > 32) {
      if (lane < N) partial[thread / 32][column] = total;
      __syncthreads();  // writes of partial before its reads
      if (t < N) {
        total = S(0);
        for (int w = thread / 32; w < (thread + threads) / 32; ++w) total += partial[w][column];
      }
      __syncthreads();  // reads before the next pass writes
    }
    if (mine && t < N && column < columns) {
      a.finish.store(a.out + row * a.out_m + (column0 + column) * a.out_n, total, row);
    }
  }
}

}  // namespace gossamer::cuda
