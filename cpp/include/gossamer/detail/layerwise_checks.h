#pragma once

// What the backends ask of the operations of gossamer/prune/layerwise.h that they share. A program
// that calls the operations needs none of this.

#include <cstdint>

#include "gossamer/detail/check.h"
#include "gossamer/prune/layerwise.h"

namespace gossamer::detail {

/// The arrays of a state [cols], on `device`; `what` says where that number comes from.
void check_state(const Checker& check, const char* name, const prune::ColumnStats& stats,
                 std::int64_t cols, const char* what, Device device);

/// x as a matrix.
TensorView check_column_stats(const Checker& check, const prune::ColumnStats& stats,
                              const TensorView& x);
void check_merge(const Checker& check, const prune::ColumnStats& into,
                 const prune::ColumnStats& from);

/// Checks everything but the diagonal of u, which only the CPU reads. `err` may be null.
void check_obs(const Checker& check, const TensorView& w, const TensorView& u,
               const TensorView& mask, const prune::ObsOptions& options, const TensorView* err);

void check_dsnot(const Checker& check, const TensorView& mask, const TensorView& w,
                 const prune::ColumnStats& stats, const prune::DsnotOptions& options);

void check_channel_threshold(const Checker& check, const TensorView& squares,
                             const TensorView& out);
void check_cett_threshold(const Checker& check, const TensorView& w, double t,
                          const TensorView& out);

}  // namespace gossamer::detail
