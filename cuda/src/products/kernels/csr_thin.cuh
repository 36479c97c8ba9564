#pragma once

// C = A·B for few columns of any layout. The entries of a row are dealt to 8 to 256 threads, each
// of which has a sum for every column. The sums are added by shuffles, then across warps, in a
// fixed order. Rows longer than `cut` are handled by a whole thread block, after its other rows.
//
// For each entry a thread loads the index and the value, both coalesced wherever the row begins,
// and gathers N elements of x. Columns increase along a row, so the 32 entries of a warp lie within
// 32/density elements of x: at 10 % in half precision within 5 or 6 lines of 128 bytes, each an L1
// wavefront; with the loads of A, 7 or 8 wavefronts for 32 entries and N = 1. If four neighbouring
// entries were read at once, each gather would touch 20 lines. A is read once, 6 bytes an entry in
// half precision, 8 in float: 4.3 TB/s are 19 bytes a clock and SM, or 3.2 entries a clock; L1 has
// room for 4.3. A 4096² layer of 10 % in half precision takes 2.3 µs.

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
  int log_threads;  // log2 of the threads of a row
  unsigned cut;     // 0: no row is long
};

inline constexpr int kThinThreads = 256;
inline constexpr int kThinMinLog = 3, kThinMaxLog = 8;
/// How many entries a thread has in flight.
inline constexpr unsigned kThinUnroll = 4;

/// How many thread blocks should fit on a multiprocessor; limits the registers of a thread.
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

  // In pass 0, each group of threads handles its row. In pass r+1, the whole thread block handles
  // row r of its rows, if that is long.
  const int passes = a.cut == 0 ? 1 : 1 + block_rows;
  for (int pass = 0; pass < passes; ++pass) {
    const int log_threads = pass == 0 ? a.log_threads : kThinMaxLog;
    const int threads = 1 << log_threads, t = thread & (threads - 1);
    const std::int64_t row = row0 + (pass == 0 ? thread >> log_threads : pass - 1);
    unsigned begin = 0, end = 0;  // unsigned, so that steps beyond the last entry do not wrap
    bool mine = row < a.rows;
    if (mine) {
      begin = static_cast<unsigned>(a.indptr[row]);
      end = static_cast<unsigned>(a.indptr[row + 1]);
      mine = a.cut == 0 || (end - begin > a.cut) == (pass != 0);
    }
    if (pass != 0 && !mine) continue;  // the same for all threads of the block
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
      fetch(p + (kThinUnroll << log_threads));  // the next ones, while these are multiplied
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
      __syncthreads();  // orders the writes of partial before its reads
      if (t < N) {
        total = S(0);
        for (int w = thread / 32; w < (thread + threads) / 32; ++w) total += partial[w][column];
      }
      __syncthreads();  // orders these reads before the writes of the next pass
    }
    if (mine && t < N && column < columns) {
      a.finish.store(a.out + row * a.out_m + (column0 + column) * a.out_n, total, row);
    }
  }
}

}  // namespace gossamer::cuda
