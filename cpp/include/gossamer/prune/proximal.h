#pragma once

#include <cstdint>

#include "gossamer/tensor.h"

namespace gossamer::prune {

// Steps that pull weights towards zero, in place. Weights are float32, float64, float16 or
// bfloat16, rows may be strided; masks are bool or uint8 of the weights' shape, nonzero where a
// weight stays.

/// w = sign(w)·max(|w| - threshold, 0).
void soft_threshold_(const TensorView& w, double threshold);

/// The groups of w [R, C] or [C] that are pulled as one.
struct Groups {
  enum class Kind : std::uint8_t { rows, columns, runs } kind = Kind::rows;
  /// Consecutive columns of a run; divides C.
  std::int64_t length = 0;
};

/// Each group times max(0, 1 - threshold/‖group‖₂).
void group_soft_threshold_(const TensorView& w, double threshold, const Groups& groups);

/// The proximal step of λ·½·min Σ‖w_g‖²/u_g over 0 ≤ u ≤ 1, Σu ≤ k (the sparse envelope of k
/// groups): each group times u_g/(λ + u_g) with u_g = clip(‖w_g‖/η - λ, 0, 1), Σu = k.
void sef_prox_(const TensorView& w, double lambda, double k, const Groups& groups);

/// w = 0 but for the k entries of largest magnitude, of equals the first. Writes their `mask`. Both
/// are contiguous.
void l0_project_(const TensorView& w, std::int64_t k, const TensorView& mask);

/// w = factor·w where the mask is zero.
void shrink_(const TensorView& w, const TensorView& mask, double factor);

/// g = g + decay·w where the mask is zero; g has w's type and shape.
void srste_grad_(const TensorView& g, const TensorView& w, const TensorView& mask, double decay);

/// Returns t·‖γ‖₁ - ‖γ - α·mean(γ)‖₁ for γ [C] and writes a subgradient with respect to γ, of its
/// type, to `grad` [C].
double polarization(const TensorView& gamma, double t, double alpha, const TensorView& grad);

}  // namespace gossamer::prune
