#pragma once

// What the backends ask of the updates of gossamer/prune/proximal.h that they share. A program that
// calls the operations needs none of this.

#include <cstdint>
#include <string>

#include "gossamer/detail/mask_checks.h"
#include "gossamer/prune/proximal.h"

namespace gossamer::detail {

/// The operands of an update as matrices; `other` and `mask` where it has them.
struct UpdateOperands {
  TensorView x, other = {}, mask = {};
};

/// A matrix whose rows may be strided, and its groups: runs of `length` columns of a row, which
/// divides the columns, or, where `length` is 0, whole columns.
struct Grouped {
  TensorView rows;
  std::int64_t length, count;
};

/// `w` is an array of weights on a device of the backend.
void check_weights(const Checker& check, const Argument& w);
/// Throws unless low ≤ x ≤ high: `expected` says so.
void check_range(const Checker& check, const char* name, double x, double low, double high,
                 const std::string& expected);

UpdateOperands check_soft_threshold(const Checker& check, const TensorView& w, double threshold);
UpdateOperands check_shrink(const Checker& check, const TensorView& w, const TensorView& mask,
                            double factor);
UpdateOperands check_srste_grad(const Checker& check, const TensorView& g, const TensorView& w,
                                const TensorView& mask, double decay);
/// Beside what the selection of k entries checks.
UpdateOperands check_l0_project(const Checker& check, const TensorView& w, const TensorView& mask);

Grouped check_group_soft_threshold(const Checker& check, const TensorView& w, double threshold,
                                   const prune::Groups& groups);
/// But for NaN and infinities in w.
Grouped check_sef_prox(const Checker& check, const TensorView& w, double lambda, double k,
                       const prune::Groups& groups);
void check_polarization(const Checker& check, const TensorView& gamma, double t, double alpha,
                        const TensorView& grad);

}  // namespace gossamer::detail
