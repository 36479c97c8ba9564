#include <limits>

#include "gossamer/detail/shown.h"
#include "gossamer/detail/update_checks.h"
#include "prune/rows.h"

namespace gossamer::detail {
namespace {

constexpr double kMax = std::numeric_limits<double>::max();

Grouped check_groups(const Checker& check, const TensorView& w, const prune::Groups& groups) {
  check_weights(check, {"w", w});
  check.rank({"w", w}, {1, 2});
  const TensorView rows = as_rows(check, {"w", w});
  const std::int64_t cols = rows.shape[1];
  check.writable({"w", w}, {});
  if (groups.kind == prune::Groups::Kind::columns) return {rows, 0, cols};
  if (groups.kind == prune::Groups::Kind::rows) return {rows, cols, rows.shape[0]};
  if (groups.length < 1 || cols % groups.length != 0) {
    check.value_error("per is " + std::to_string(groups.length) +
                      ", expected a divisor of w.shape[-1] = " + std::to_string(cols));
  }
  return {rows, groups.length, rows.shape[0] * (cols / groups.length)};
}

}  // namespace

void check_weights(const Checker& check, const Argument& w) {
  check.floating(w);
  check.device(w, w.view.device, w.name);
}

void check_range(const Checker& check, const char* name, double x, double low, double high,
                 const std::string& expected) {
  if (x >= low && x <= high) return;
  check.value_error(std::string(name) + " is " + shown(x) + ", expected " + expected);
}

UpdateOperands check_soft_threshold(const Checker& check, const TensorView& w, double threshold) {
  check_weights(check, {"w", w});
  const UpdateOperands operands{.x = as_rows(check, {"w", w})};
  check_range(check, "threshold", threshold, 0, kMax, "at least 0");
  check.writable({"w", w}, {});
  return operands;
}

UpdateOperands check_shrink(const Checker& check, const TensorView& w, const TensorView& mask,
                            double factor) {
  check_weights(check, {"w", w});
  UpdateOperands operands{.x = as_rows(check, {"w", w})};
  check_mask(check, {"mask", mask}, {"w", w});
  operands.mask = as_rows(check, {"mask", mask});
  check_range(check, "factor", factor, -kMax, kMax, "a finite number");
  check.writable({"w", w}, {{"mask", mask}});
  return operands;
}

UpdateOperands check_srste_grad(const Checker& check, const TensorView& g, const TensorView& w,
                                const TensorView& mask, double decay) {
  check_weights(check, {"g", g});
  UpdateOperands operands{.x = as_rows(check, {"g", g})};
  check.dtype({"w", w}, g.dtype, "g");
  check.device({"w", w}, g.device, "g");
  operands.other = as_rows(check, {"w", w});
  check.same_shape({"w", w}, {"g", g});
  check_mask(check, {"mask", mask}, {"g", g});
  operands.mask = as_rows(check, {"mask", mask});
  check_range(check, "decay", decay, -kMax, kMax, "a finite number");
  check.writable({"g", g}, {{"w", w}, {"mask", mask}});
  return operands;
}

UpdateOperands check_l0_project(const Checker& check, const TensorView& w, const TensorView& mask) {
  check_weights(check, {"w", w});
  UpdateOperands operands{.x = as_rows(check, {"w", w})};
  check_mask(check, {"mask", mask}, {"w", w});
  check.writable({"w", w}, {{"mask", mask}});
  operands.mask = as_rows(check, {"mask", mask});
  return operands;
}

Grouped check_group_soft_threshold(const Checker& check, const TensorView& w, double threshold,
                                   const prune::Groups& groups) {
  const Grouped grouped = check_groups(check, w, groups);
  check_range(check, "threshold", threshold, 0, kMax, "at least 0");
  return grouped;
}

Grouped check_sef_prox(const Checker& check, const TensorView& w, double lambda, double k,
                       const prune::Groups& groups) {
  const Grouped grouped = check_groups(check, w, groups);
  check_range(check, "lam", lambda, 0, kMax, "at least 0");
  check_range(check, "k", k, 0, static_cast<double>(grouped.count),
              "0 to the number of groups, " + std::to_string(grouped.count));
  return grouped;
}

void check_polarization(const Checker& check, const TensorView& gamma, double t, double alpha,
                        const TensorView& grad) {
  check_weights(check, {"gamma", gamma});
  check.rank({"gamma", gamma}, {1});
  check.layout({"gamma", gamma});
  check_range(check, "t", t, -kMax, kMax, "a finite number");
  check_range(check, "alpha", alpha, -kMax, kMax, "a finite number");
  check.dtype({"grad", grad}, gamma.dtype, "gamma");
  check.shape({"grad", grad}, {gamma.shape[0]});
  check.layout({"grad", grad});
  check.device({"grad", grad}, gamma.device, "gamma");
  check.writable({"grad", grad}, {{"gamma", gamma}});
}

}  // namespace gossamer::detail
