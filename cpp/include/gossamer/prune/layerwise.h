#pragma once

#include <cstdint>
#include <optional>

#include "gossamer/tensor.h"

namespace gossamer::prune {

// Pruning one layer after training, from a little calibration data: what its inputs are like, and
// methods that use it. Weights are w [R, C], a row for each output; rows may be strided.

/// What is known of the columns of activations: raw sums, to be merged or reduced over machines.
/// The arrays are float64 [C], zeros at first; m2 = Σ(x - mean)².
struct ColumnStats {
  std::int64_t n = 0;
  TensorView sum, sumsq, m2;
};

/// Adds the rows of x [..., C] of any floating type, in one pass.
void column_stats_(ColumnStats& stats, const TensorView& x);

/// Adds what `from` has seen to `into` (Chan, Golub and LeVeque's merge).
void merge_(ColumnStats& into, const ColumnStats& from);

/// n of each m consecutive columns, 0 ≤ n ≤ m, 1 ≤ m.
struct NmPattern {
  std::int64_t n, m;
};

/// What obs_prune_ and obs_block_ keep: k weights, by w²/u², or n of each m columns; where neither
/// is given, what their mask says.
struct ObsOptions {
  std::optional<std::int64_t> k = {};
  std::optional<NmPattern> nm = {};
  /// Columns between two choices of what to drop, rounded up to a multiple of m; k is shared among
  /// the blocks. Not for obs_block_, which takes one block.
  std::int64_t block = 128;
};

/// SparseGPT: drops weights column by column and changes those to their right so that the outputs
/// on inputs with Hessian H stay near. u [C, C] is the upper Cholesky factor of H⁻¹ = uᵀ·u, float64
/// for a float64 w, else float32; only its upper triangle is read. `mask` [R, C] (bool or uint8) is
/// read, or written where `k` or `nm` is given.
void obs_prune_(const TensorView& w, const TensorView& u, const TensorView& mask,
                const ObsOptions& options);

/// The same for one block of columns. `err` [R, C] of u's type gets w/diag u of each dropped weight
/// as it was when its column was reached, else 0: columns to the right of the block take
/// -err·u[block, right].
void obs_block_(const TensorView& w, const TensorView& u, const TensorView& mask,
                const ObsOptions& options, const TensorView& err);

struct DsnotOptions {
  double tolerance = 0.1;
  /// Swaps of a row, at most.
  std::int64_t max_iter = 50;
  /// Exponent of the variance in the order of growth.
  double power = 1.0;
  /// Drops only weights whose loss brings the row's error nearer to zero.
  bool same_sign = true;
  /// Swaps within groups of that many columns, else within the row.
  std::optional<std::int64_t> group = {};
};

/// DSnoT: swaps entries of the rows of `mask` [R, C] (bool or uint8) so that the expected output of
/// what is dropped, Σ w·mean, comes near to zero; each row keeps its number of entries.
void dsnot_rows_(const TensorView& mask, const TensorView& w, const ColumnStats& stats,
                 const DsnotOptions& options = {});

/// Thresholds of channels of activations: out [C] float32 = scale/√squares, squares [C] of float32
/// or float64; +infinity where a channel's square is 0, since it contributes nothing.
void channel_threshold(const TensorView& squares, double scale, const TensorView& out);

/// The same from the columns of w [D, C] of any floating type, rows may be strided: out = t/‖w[:,
/// i]‖₂, +infinity for a column of zeros.
void cett_threshold(const TensorView& w, double t, const TensorView& out);

}  // namespace gossamer::prune
