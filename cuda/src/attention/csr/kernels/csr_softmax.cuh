#pragma once

// Softmax over the entries of each row, and its gradient: passes over a row, of which the later
// ones read what the first one brought into L1 or L2. The memory bounds them: two to three values
// an entry.

#include "base/kernels/numbers.cuh"
#include "base/kernels/row_team.cuh"

namespace gossamer::cuda {

template <class T>
struct CsrSoftmaxArgs {
  RowTeams teams;
  std::int64_t sets, nnz;
  const T* x;  // [sets, nnz]: values or, for the gradient, their softmax
  const T* g;  // [sets, nnz]: the gradient of the softmax; null: compute the softmax
  T* out;      // [sets, nnz]
};

template <class T>
__global__ void __launch_bounds__(kTeamThreads, 4) csr_softmax_rows(CsrSoftmaxArgs<T> a) {
  using S = Sum<T>;
  __shared__ S partial[kTeamThreads / 32];
  for (std::int64_t set = blockIdx.y; set < a.sets; set += gridDim.y) {
    const T* x = a.x + set * a.nnz;
    T* out = a.out + set * a.nnz;
    for_row_teams(a.teams, partial,
                  [&](const Team<S>& team, std::int64_t, unsigned begin, unsigned end, bool) {
                    const auto threads = static_cast<unsigned>(team.threads);
                    const unsigned first = begin + static_cast<unsigned>(team.t);
                    if (a.g != nullptr) {
                      const T* g = a.g + set * a.nnz;
                      S mean(0);
                      for (unsigned p = first; p < end; p += threads)
                        mean += widen(x[p]) * widen(g[p]);
                      mean = team.sum(mean);
                      for (unsigned p = first; p < end; p += threads) {
                        out[p] = narrow<T>(widen(x[p]) * (widen(g[p]) - mean));
                      }
                      return;
                    }
                    S most = -S(INFINITY);
                    for (unsigned p = first; p < end; p += threads)
                      most = larger_or_nan(most, widen(x[p]));
                    most = team.largest(most);
                    const bool none = most == -S(INFINITY);
                    S total(0);
                    for (unsigned p = first; p < end; p += threads) {
                      total += none ? S(0) : exp(widen(x[p]) - most);
                    }
                    total = team.sum(total);
                    const S share = none ? S(0) : S(1) / total;
                    for (unsigned p = first; p < end; p += threads) {
                      out[p] = narrow<T>(none ? S(0) : exp(widen(x[p]) - most) * share);
                    }
                  });
  }
}

}  // namespace gossamer::cuda
