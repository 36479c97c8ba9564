#include <algorithm>
#include <optional>
#include <string>

#include "gossamer/detail/score.h"

namespace gossamer::prune {

DType dtype_of(const Score& score) noexcept {
  return score.w.dtype == DType::f64 ? DType::f64 : DType::f32;
}

}  // namespace gossamer::prune

namespace gossamer::detail {

ScoreNeeds needs_of(prune::ScoreKind kind) {
  switch (kind) {
    case prune::ScoreKind::value:
      return {"value", false, false, false, false};
    case prune::ScoreKind::magnitude:
      return {"magnitude", false, false, false, false};
    case prune::ScoreKind::snip:
      return {"snip", true, false, false, false};
    case prune::ScoreKind::taylor2:
      return {"taylor2", true, false, false, false};
    case prune::ScoreKind::sign:
      return {"signed", true, false, false, false};
    case prune::ScoreKind::wanda:
      return {"wanda", false, false, false, true};
    case prune::ScoreKind::obs:
      return {"obs", false, false, false, true};
    case prune::ScoreKind::adam:
      return {"adam", false, true, true, false};
    case prune::ScoreKind::sum3:
      return {"sum3", false, false, false, false};
    case prune::ScoreKind::zo:
      return {"zo", true, false, false, false};
    case prune::ScoreKind::snr_abs:
      return {"snr_abs", false, false, true, false};
  }
  return {};
}

bool is_direct(const prune::Score& score) noexcept {
  return (score.kind == prune::ScoreKind::value || score.kind == prune::ScoreKind::magnitude) &&
         score.scale == 1.0;
}

namespace {

/// An operand beside w, whose last axis `col` has and whose shape all others have.
void check_operand(const Checker& check, const ScoreNeeds& needs, const char* name, bool needed,
                   const std::optional<TensorView>& x, const TensorView& w) {
  if (!x) {
    if (!needed) return;
    check.value_error(std::string(name) + " is None, expected an array for kind \"" + needs.name +
                      "\"");
  }
  const Argument operand{name, *x};
  check.floating(operand);
  if (x->dtype == DType::f64 && w.dtype != DType::f64) {
    check.type_error(std::string(name) +
                     ".dtype is float64, expected at most w.dtype = " + name_of(w.dtype));
  }
  check.device(operand, w.device, "w");
  check.contiguous(operand);
}

}  // namespace

void check_score(const Checker& check, const prune::Score& score) {
  const TensorView& w = score.w;
  // An array that is its own score is called "score" in messages.
  const Argument own{score.kind == prune::ScoreKind::value ? "score" : "w", w};
  check.floating(own);
  check.device(own, w.device, own.name);
  check.contiguous(own);
  const ScoreNeeds needs = needs_of(score.kind);
  check_operand(check, needs, "g", needs.g, score.g, w);
  check_operand(check, needs, "m", needs.m, score.m, w);
  check_operand(check, needs, "v", needs.v, score.v, w);
  check_operand(check, needs, "col", needs.col, score.col, w);
  if (score.g) check.same_shape({"g", *score.g}, {"w", w});
  if (score.m) check.same_shape({"m", *score.m}, {"w", w});
  if (score.v) check.same_shape({"v", *score.v}, {"w", w});
  if (score.col) {
    check.rank({"col", *score.col}, {1});
    const std::int64_t columns = w.rank == 0 ? 1 : w.shape[static_cast<std::size_t>(w.rank - 1)];
    check.extent({"col", *score.col}, 0, columns, "w.shape[-1]");
  }
}

void check_apart(const Checker& check, const Argument& out, const prune::Score& score) {
  check.writable(out, {{score.kind == prune::ScoreKind::value ? "score" : "w", score.w}});
  if (score.g) check.writable(out, {{"g", *score.g}});
  if (score.m) check.writable(out, {{"m", *score.m}});
  if (score.v) check.writable(out, {{"v", *score.v}});
  if (score.col) check.writable(out, {{"col", *score.col}});
}

void check_mask_out(const Checker& check, const Argument& out, const prune::Score& score) {
  check.mask(out);
  check.device(out, score.w.device, "score");
  check.same_shape(out, {"score", score.w});
  check.contiguous(out);
  check_apart(check, out, score);
}

void check_evaluate(const Checker& check, const prune::Score& score, const TensorView& out) {
  check_score(check, score);
  const Argument result{"out", out};
  check.dtype(result, dtype_of(score), "score");
  check.device(result, score.w.device, "w");
  check.same_shape(result, {"w", score.w});
  check.contiguous(result);
  check_apart(check, result, score);
}

}  // namespace gossamer::detail
