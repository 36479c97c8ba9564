#include <cmath>
#include <string>
#include <utility>

#include "base/separate.h"
#include "gossamer/detail/layerwise_checks.h"
#include "gossamer/detail/shown.h"
#include "prune/rows.h"

namespace gossamer::detail {
namespace {

std::string number(std::int64_t n) { return std::to_string(n); }

/// The arrays of the state are separate and may be written.
void check_written(const Checker& check, const char* name, const prune::ColumnStats& stats) {
  Separate apart(check);
  for (const auto& [part, view] :
       {std::pair{".sum", &stats.sum}, {".sumsq", &stats.sumsq}, {".m2", &stats.m2}}) {
    const std::string full = std::string(name) + part;
    check.writable({full.c_str(), *view}, {});
    apart.writes(full, *view);
  }
  apart.check();
}

/// `out` is a float32 array [size] that may be written.
void check_thresholds(const Checker& check, const TensorView& out, std::int64_t size,
                      const Argument& input) {
  check.dtype({"out", out}, DType::f32, "a threshold");
  check.device({"out", out}, input.view.device, input.name);
  check.shape({"out", out}, {size});
  check.contiguous({"out", out});
  check.writable({"out", out}, {input});
}

}  // namespace

void check_state(const Checker& check, const char* name, const prune::ColumnStats& stats,
                 std::int64_t cols, const char* what, Device device) {
  for (const TensorView* view : {&stats.sum, &stats.sumsq, &stats.m2}) {
    const Argument argument{name, *view};
    check.dtype(argument, DType::f64, "the state");
    check.rank(argument, {1});
    check.extent(argument, 0, cols, what);
    check.layout(argument);
    check.device(argument, device, "the state");
  }
}

TensorView check_column_stats(const Checker& check, const prune::ColumnStats& stats,
                              const TensorView& x) {
  if (x.rank == 0) check.value_error("x.ndim is 0, expected at least 1");
  const TensorView rows = as_rows(check, {"x", x});
  check.floating({"x", x});
  check.device({"x", x}, x.device, "x");
  check_state(check, "stats", stats, rows.shape[1], "x.shape[-1]", x.device);
  check_written(check, "stats", stats);
  return rows;
}

void check_merge(const Checker& check, const prune::ColumnStats& into,
                 const prune::ColumnStats& from) {
  check.rank({"into", into.sum}, {1});
  const std::int64_t cols = into.sum.shape[0];
  check_state(check, "into", into, cols, "itself", into.sum.device);
  check_written(check, "into", into);
  check_state(check, "from", from, cols, "into.shape[0]", into.sum.device);
}

void check_obs(const Checker& check, const TensorView& w, const TensorView& u,
               const TensorView& mask, const prune::ObsOptions& options, const TensorView* err) {
  check.rank({"w", w}, {2});
  check.floating({"w", w});
  check.device({"w", w}, w.device, "w");
  check.layout({"w", w});
  const std::int64_t rows = w.shape[0], cols = w.shape[1];
  const DType real = w.dtype == DType::f64 ? DType::f64 : DType::f32;
  if (u.dtype != real) {
    check.type_error(std::string("u.dtype is ") + name_of(u.dtype) + ", expected " + name_of(real) +
                     " for w.dtype = " + name_of(w.dtype));
  }
  check.shape({"u", u}, {cols, cols});
  check.device({"u", u}, w.device, "w");
  check.layout({"u", u});
  check_mask(check, {"mask", mask}, {"w", w});
  if (options.block < 1) {
    check.value_error("block is " + number(options.block) + ", expected at least 1");
  }
  if (options.k && options.nm) check.value_error("k and nm are given, expected one of them");
  if (options.k && (*options.k < 0 || *options.k > rows * cols)) {
    check.value_error("k is " + number(*options.k) + ", expected 0 to " + number(rows * cols));
  }
  if (options.nm) {
    const auto [n, m] = *options.nm;
    if (m < 1 || n < 0 || n > m) {
      check.value_error("nm is (" + number(n) + ", " + number(m) +
                        "), expected 0 <= n <= m and m >= 1");
    }
    if (cols % m != 0) {
      check.value_error("w.shape[1] is " + number(cols) +
                        ", expected a multiple of m = " + number(m));
    }
  }
  check.writable({"w", w}, {{"u", u}, {"mask", mask}});
  if (options.k || options.nm) check.writable({"mask", mask}, {{"u", u}});
  if (err) {
    check.dtype({"err", *err}, real, "u");
    check.shape({"err", *err}, {rows, cols});
    check.layout({"err", *err});
    check.writable({"err", *err}, {{"w", w}, {"u", u}, {"mask", mask}});
  }
}

void check_dsnot(const Checker& check, const TensorView& mask, const TensorView& w,
                 const prune::ColumnStats& stats, const prune::DsnotOptions& options) {
  check.rank({"w", w}, {2});
  check.floating({"w", w});
  check.device({"w", w}, w.device, "w");
  check.layout({"w", w});
  check_mask(check, {"mask", mask}, {"w", w});
  const std::int64_t cols = w.shape[1];
  check_state(check, "stats", stats, cols, "w.shape[1]", w.device);
  if (stats.n == 0) check.value_error("stats.n is 0, expected at least one row of activations");
  if (!(options.tolerance >= 0)) {
    check.value_error("tolerance is " + shown(options.tolerance) + ", expected at least 0");
  }
  if (!std::isfinite(options.power)) {
    check.value_error("power is " + shown(options.power) + ", expected a finite number");
  }
  if (options.max_iter < 0) {
    check.value_error("max_iter is " + number(options.max_iter) + ", expected at least 0");
  }
  if (options.group && (*options.group < 1 || cols % *options.group != 0)) {
    check.value_error("per is " + number(*options.group) +
                      ", expected a divisor of w.shape[1] = " + number(cols));
  }
  check.writable({"mask", mask}, {{"w", w}});
}

void check_channel_threshold(const Checker& check, const TensorView& squares,
                             const TensorView& out) {
  check.rank({"squares", squares}, {1});
  check.layout({"squares", squares});
  check.device({"squares", squares}, squares.device, "squares");
  if (squares.dtype != DType::f32 && squares.dtype != DType::f64) {
    check.type_error(std::string("squares.dtype is ") + name_of(squares.dtype) +
                     ", expected float32 or float64");
  }
  check_thresholds(check, out, squares.shape[0], {"squares", squares});
}

void check_cett_threshold(const Checker& check, const TensorView& w, double t,
                          const TensorView& out) {
  check.rank({"w_out", w}, {2});
  check.floating({"w_out", w});
  check.device({"w_out", w}, w.device, "w_out");
  check.layout({"w_out", w});
  if (!(t >= 0)) check.value_error("t is " + shown(t) + ", expected at least 0");
  check_thresholds(check, out, w.shape[1], {"w_out", w});
}

}  // namespace gossamer::detail
