#pragma once

// C = A·B for few columns of any layout: a row's entries are dealt in turn to 8 to 256 threads,
// each with a sum for every column; sums are added by shuffles, then across warps, in a fixed
// order. Rows longer than `cut` are taken by a whole block, after its others.
//
// An entry costs a thread a load of its index and one of its value, both coalesced wherever the row
// begins, and N gathers from x. Columns ascend, so that a warp's 32 entries lie in 32/density
// elements of x: at 10 % in half precision 5 or 6 lines of 128 bytes, an L1 wavefront each, 7 or 8
// wavefronts in all for 32 entries and N = 1. Were four neighbours read at once, each gather would
// touch 20 lines. A is read once, 6 bytes an entry in half precision, 8 in float: at 4.3 TB/s, that
// is 19 bytes a clock and SM, 3.2 entries a clock, and L1 passes 4.3. A 4096² layer of 10 % in half
// precision takes 2.3 µs.

#include "base/kernels/epilogue.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

template <class T>
struct CsrThinArgs {
  const int* indptr;
  const int* indices;
  const T* values;
  int rows;
  const T* x;  // B(k, j) = x[k*stride_k + j*stride_n]
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
/// Entries of a thread in flight.
inline constexpr unsigned kThinUnroll = 4;

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
    int index[kThinUnroll];
    S value[kThinUnroll];
    const auto fetch = [&](unsigned p) {
#pragma unroll
      for (unsigned k = 0; k < kThinUnroll; ++k) {
        const unsigned q = p + (k << log_threads);
        index[k] = q < end ? a.indices[q] : 0;
        value[k] = q < end ? widen(a.values[q]) : S(0);
      }
    };
    unsigned p = begin + static_cast<unsigned>(t);
    fetch(p);
    for (; p < end; p += kThinUnroll << log_threads) {
      const T* from[kThinUnroll];
      S factor[kThinUnroll];
#pragma unroll
      for (unsigned k = 0; k < kThinUnroll; ++k) {
        from[k] = x + index[k] * a.stride_k;
        factor[k] = value[k];
      }
      fetch(p + (kThinUnroll << log_threads));  // while these are multiplied
#pragma unroll
      for (unsigned k = 0; k < kThinUnroll; ++k) {
        if (p + (k << log_threads) < end) {
          const T* at = from[k];
#pragma unroll
          for (int c = 0; c < N; ++c) {
            if (N == 1 || c < columns) sums[c] += factor[k] * widen(*at);
            at += a.stride_n;
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
