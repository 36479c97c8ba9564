#pragma once

// Launches of kernels whose rows are handled by teams of threads.

#include <algorithm>

#include "base/kernels/row_team.cuh"
#include "base/launch.h"
#include "formats/csr/csr_view.h"

namespace gossamer::cuda {

/// Teams for the rows of a pattern, about eight entries a thread.
inline RowTeams teams_of(const CsrView& a) {
  const std::int64_t mean = a.nnz / std::max<std::int64_t>(a.rows, 1);
  int log_threads = kTeamMinLog;
  while (log_threads < kTeamMaxLog && (8 << log_threads) < mean) ++log_threads;
  const std::int64_t cut = std::max<std::int64_t>(64 << log_threads, 8 * mean);
  const bool long_rows = std::min(a.cols, a.nnz) > cut && log_threads < kTeamMaxLog;
  return {.indptr = a.indptr,
          .rows = static_cast<int>(a.rows),
          .log_threads = log_threads,
          .cut = long_rows ? static_cast<unsigned>(cut) : 0};
}

/// The grid for these teams and `sets` sets of values, over which the kernel loops in y.
inline dim3 team_grid(const RowTeams& teams, std::int64_t sets) {
  return {grid_x(ceil_div(teams.rows, kTeamThreads >> teams.log_threads)), grid_y(sets)};
}

}  // namespace gossamer::cuda
