#include <limits>

#include "gossamer/detail/update_checks.h"
#include "prune/rows.h"

namespace gossamer::detail {
namespace {

constexpr double kMax = std::numeric_limits<double>::max();

}  // namespace

void check_weights(const Checker& check, const Argument& w) {
  check.floating(w);
  check.device(w, w.view.device, w.name);
}

void check_range(const Checker& check, const char* name, double x, double low, double high,
                 const std::string& expected) {
  if (x >= low && x <= high) return;
  check.value_error(std::string(name) + " is " + std::to_string(x) + ", expected " + expected);
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

}  // namespace gossamer::detail
