#pragma once

// Rows of a CSR matrix, each handled by a team of 8 to 256 threads of one thread block; rows longer
// than `cut` by a whole thread block, after its other rows.

#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

struct RowTeams {
  const int* indptr;
  int rows;
  int log_threads;  // log2 of the threads of a row
  unsigned cut;     // 0: no row is long
};

inline constexpr int kTeamThreads = 256;
inline constexpr int kTeamMinLog = 3, kTeamMaxLog = 8;

/// The larger of the two; NaN where one is.
template <class S>
__device__ inline S larger_or_nan(S a, S b) {
  return b > a || b != b ? b : a;
}

/// The threads of a row; t is the number of the calling one. All of a thread block call the
/// reductions, in the same order; all of a team get the same bits.
template <class S>
struct Team {
  int threads, t;
  S* partial;  // [kTeamThreads / 32], shared

  template <class Join>
  __device__ S reduce(S v, const Join& join) const {
    for (int mask = 1; mask < least(threads, 32); mask *= 2) {
      v = join(v, __shfl_xor_sync(kAllLanes, v, mask));
    }
    if (threads <= 32) return v;
    const int warp = static_cast<int>(threadIdx.x) / 32, first = warp - t / 32;
    if (threadIdx.x % 32 == 0) partial[warp] = v;
    __syncthreads();  // orders the writes of partial before its reads
    v = partial[first];
    for (int w = 1; w < threads / 32; ++w) v = join(v, partial[first + w]);
    __syncthreads();  // orders these reads before the writes of the next reduction
    return v;
  }
  __device__ S sum(S v) const {
    return reduce(v, [](S a, S b) { return a + b; });
  }
  __device__ S largest(S v) const {
    return reduce(v, [](S a, S b) { return larger_or_nan(a, b); });
  }
};

/// Calls body(team, row, begin, end, mine) for the rows of this thread block: each thread of a team
/// with the entries [begin, end) of its row, or with none and `mine` false where it has no row.
template <class S, class F>
__device__ __forceinline__ void for_row_teams(const RowTeams& a, S* partial, const F& body) {
  const int thread = static_cast<int>(threadIdx.x);
  const int block_rows = kTeamThreads >> a.log_threads;
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * block_rows;
  const int passes = a.cut == 0 ? 1 : 1 + block_rows;
  for (int pass = 0; pass < passes; ++pass) {
    const int log_threads = pass == 0 ? a.log_threads : kTeamMaxLog;
    const int threads = 1 << log_threads;
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
    body(Team<S>{threads, thread & (threads - 1), partial}, row, begin, end, mine);
  }
}

}  // namespace gossamer::cuda
