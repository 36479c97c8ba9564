#pragma once

// Sums and largest values of rows, and entries scaled by their row and column: one pass over the
// values, 4 to 12 bytes an entry, which the memory bounds.

#include "base/kernels/numbers.cuh"
#include "base/kernels/row_team.cuh"

namespace gossamer::cuda {

enum class RowsTask : int { sum, largest, scale };

template <class T>
struct GraphRowsArgs {
  RowTeams teams;
  RowsTask task;
  std::int64_t sets, nnz;
  const T* values;     // [sets, nnz]; null: each is 1
  double power;        // sum: what sums are raised to
  Sum<T>* reduced;     // sum, largest: [sets, rows]
  const int* indices;  // scale
  const Sum<T>* rows;  // scale; null: each is 1, as cols
  const Sum<T>* cols;
  T* scaled;  // scale: [sets, nnz]
};

template <class T>
__global__ void __launch_bounds__(kTeamThreads, 4) graph_rows(GraphRowsArgs<T> a) {
  using S = Sum<T>;
  __shared__ S partial[kTeamThreads / 32];
  for (std::int64_t set = blockIdx.y; set < a.sets; set += gridDim.y) {
    const T* values = a.values == nullptr ? nullptr : a.values + set * a.nnz;
    for_row_teams(
        a.teams, partial,
        [&](const Team<S>& team, std::int64_t row, unsigned begin, unsigned end, bool mine) {
          const auto threads = static_cast<unsigned>(team.threads);
          const unsigned first = begin + static_cast<unsigned>(team.t);
          if (a.task == RowsTask::scale) {
            const S left = a.rows == nullptr || !mine ? S(1) : a.rows[row];
            for (unsigned p = first; p < end; p += threads) {
              S v = values == nullptr ? left : left * widen(values[p]);
              if (a.cols != nullptr) v *= a.cols[a.indices[p]];
              a.scaled[set * a.nnz + p] = narrow<T>(v);
            }
            return;
          }
          S v = a.task == RowsTask::sum ? S(0) : -S(INFINITY);
          for (unsigned p = first; p < end; p += threads) {
            const S x = values == nullptr ? S(1) : widen(values[p]);
            v = a.task == RowsTask::sum ? v + x : larger_or_nan(v, x);
          }
          v = a.task == RowsTask::sum ? team.sum(v) : team.largest(v);
          if (a.task == RowsTask::sum && a.power != 1.0) {
            v = a.power < 0 && v == S(0) ? S(0) : pow(v, static_cast<S>(a.power));
          }
          if (mine && team.t == 0) a.reduced[set * a.teams.rows + row] = v;
        });
  }
}

}  // namespace gossamer::cuda
