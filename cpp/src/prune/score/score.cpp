#include "gossamer/prune/score.h"

#include <algorithm>
#include <string>

#include "base/floats.h"
#include "base/pool.h"
#include "base/work.h"
#include "gossamer/detail/check.h"
#include "prune/score/kernels.h"
#include "prune/score/score_reader.h"

namespace gossamer::prune {
using namespace detail;
namespace {

void check_contiguous(const Checker& check, const Argument& argument) {
  if (is_contiguous(argument.view)) return;
  check.value_error(std::string(argument.name) + " is strided, expected a contiguous array");
}

void check_operand(const Checker& check, const char* name, const std::optional<TensorView>& x,
                   const TensorView& w) {
  if (!x) return;
  check.floating({name, *x});
  if (x->dtype == DType::f64 && w.dtype != DType::f64) {
    check.type_error(std::string(name) +
                     ".dtype is float64, expected at most w.dtype = " + name_of(w.dtype));
  }
  check.device({name, *x}, w.device, "w");
  check_contiguous(check, {name, *x});
}

void check_same_shape(const Checker& check, const char* name, const std::optional<TensorView>& x,
                      const TensorView& w) {
  if (!x || (x->rank == w.rank &&
             std::equal(w.shape.begin(), w.shape.begin() + w.rank, x->shape.begin()))) {
    return;
  }
  check.value_error(std::string(name) + ".shape is " + shape_string(*x) +
                    ", expected w.shape = " + shape_string(w));
}

void check_needed(const Checker& check, const ScoreNeeds& needs, const char* name, bool needed,
                  const std::optional<TensorView>& x) {
  if (needed && !x) {
    check.value_error(std::string(name) + " is None, expected an array for kind \"" + needs.name +
                      "\"");
  }
}

}  // namespace

DType dtype_of(const Score& score) noexcept {
  return score.w.dtype == DType::f64 ? DType::f64 : DType::f32;
}

void check_score(const Score& score, const char* op) {
  const Checker check(op);
  const TensorView& w = score.w;
  // An array that is its own score is called "score" in messages.
  const char* name = score.kind == ScoreKind::value ? "score" : "w";
  check.floating({name, w});
  check.device({name, w}, w.device, name);
  check_contiguous(check, {name, w});
  check_operand(check, "g", score.g, w);
  check_operand(check, "m", score.m, w);
  check_operand(check, "v", score.v, w);
  check_operand(check, "col", score.col, w);
  check_same_shape(check, "g", score.g, w);
  check_same_shape(check, "m", score.m, w);
  check_same_shape(check, "v", score.v, w);
  const ScoreNeeds needs = needs_of(score.kind);
  check_needed(check, needs, "g", needs.g, score.g);
  check_needed(check, needs, "m", needs.m, score.m);
  check_needed(check, needs, "v", needs.v, score.v);
  check_needed(check, needs, "col", needs.col, score.col);
  if (score.col) {
    check.rank({"col", *score.col}, {1});
    const std::int64_t columns = w.rank == 0 ? 1 : w.shape[static_cast<std::size_t>(w.rank - 1)];
    check.extent({"col", *score.col}, 0, columns, "w.shape[-1]");
  }
}

void evaluate(const Score& score, const TensorView& out) {
  const FloatEnvironment floats;
  constexpr const char* op = "score";
  check_score(score, op);
  const Checker check(op);
  const DType type = dtype_of(score);
  if (out.dtype != type) {
    check.type_error(std::string("out.dtype is ") + name_of(out.dtype) + ", expected " +
                     name_of(type));
  }
  check.device({"out", out}, score.w.device, "w");
  check_same_shape(check, "out", out, score.w);
  check_contiguous(check, {"out", out});
  check.writable({"out", out}, {{"w", score.w}});
  for (const auto& x : {score.g, score.m, score.v, score.col}) {
    if (x) check.writable({"out", out}, {{"an operand", *x}});
  }
  const std::int64_t n = out.numel();
  if (n == 0) return;
  ask_for_huge_pages(out.data, n * size_of(type));
  const ScoreReader reader(score);
  parallel_for((n + kTaskElements - 1) / kTaskElements, [&](std::int64_t piece) {
    const std::int64_t first = piece * kTaskElements;
    reader.read(first, std::min(kTaskElements, n - first),
                static_cast<std::byte*>(out.data) + first * size_of(type));
  });
}

}  // namespace gossamer::prune
