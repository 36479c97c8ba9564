#pragma once

// Strengths of nodes, and scores of edges by the degrees around them.

#include "base/kernels/numbers.cuh"
#include "base/kernels/row_team.cuh"

namespace gossamer::cuda {

template <class T>
struct GraphStrengthArgs {
  RowTeams teams;
  const T* values;
  Sum<T>* sums;  // [rows]
};

/// sums[i] = Σ|a_ij|, added up in float64.
template <class T>
__global__ void __launch_bounds__(kTeamThreads)
    graph_strength(const __grid_constant__ GraphStrengthArgs<T> a) {
  __shared__ double partial[kTeamThreads / 32];
  for_row_teams(
      a.teams, partial,
      [&](const Team<double>& team, std::int64_t row, unsigned begin, unsigned end, bool mine) {
        double sum = 0;
        for (unsigned p = begin + static_cast<unsigned>(team.t); p < end;
             p += static_cast<unsigned>(team.threads)) {
          sum += fabs(static_cast<double>(widen(a.values[p])));
        }
        sum = team.sum(sum);
        if (mine && team.t == 0) a.sums[row] = static_cast<Sum<T>>(sum);
      });
}

inline constexpr int kGraphThreads = 128;

static __global__ void __launch_bounds__(kGraphThreads)
    graph_roots(const int* indptr, std::int64_t rows, float* root) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kGraphThreads + static_cast<int>(threadIdx.x);
  if (i >= rows) return;
  const int degree = indptr[i + 1] - indptr[i];
  root[i] = degree > 0 ? 1.0f / sqrt(static_cast<float>(degree)) : 0.0f;
}

/// near[i] = Σ root/degree² over the neighbours of i. A thread a row, which adds them one after the
/// other, as on a CPU: equal scores stay equal.
static __global__ void __launch_bounds__(kGraphThreads)
    graph_near(const int* indptr, const int* indices, std::int64_t rows, const float* root,
               float* near) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kGraphThreads + static_cast<int>(threadIdx.x);
  if (i >= rows) return;
  const int begin = indptr[i], end = indptr[i + 1];
  float sum = 0;
#pragma unroll 8
  for (int p = begin; p < end; ++p) sum += root[indices[p]];
  const auto degree = static_cast<float>(end - begin);
  near[i] = end > begin ? sum / (degree * degree) : 0.0f;
}

/// scores[p] = near[i]·near[j] of edge p from i to j; infinite for i = j.
static __global__ void __launch_bounds__(kTeamThreads)
    graph_edge_scores(RowTeams teams, const int* indices, const float* near, float* scores) {
  __shared__ float partial[kTeamThreads / 32];
  for_row_teams(
      teams, partial,
      [&](const Team<float>& team, std::int64_t row, unsigned begin, unsigned end, bool mine) {
        const float own = mine ? near[row] : 0.0f;
        for (unsigned p = begin + static_cast<unsigned>(team.t); p < end;
             p += static_cast<unsigned>(team.threads)) {
          const int j = indices[p];
          scores[p] = j == row ? INFINITY : own * near[j];
        }
      });
}

}  // namespace gossamer::cuda
