#include "prune/layerwise.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/call.h"
#include "base/flat.h"
#include "gossamer/error.h"
#include "gossamer/prune/layerwise.h"

namespace gossamer::python {
using namespace prune;
namespace {

/// The state of ColumnStats, and an empty array of the framework that its results belong to.
class Stats {
 public:
  /// Several threads may add at once: each sums its rows alone, and adds the sums while it has the
  /// interpreter's lock.
  void add(py::handle x) {
    Call<Cpu> call("column_stats_");
    const Import import = call.read(x, "x");
    const TensorView& view = import.view();
    if (view.rank == 0) throw ValueError("column_stats_: x.ndim is 0, expected at least 1");
    Stats rows;
    rows.sums_.assign(
        static_cast<std::size_t>(3 * view.shape[static_cast<std::size_t>(view.rank - 1)]), 0.0);
    const auto fits = [&] {
      if (!like_ || rows.cols() == cols()) return;
      throw ValueError("column_stats_: stats.shape[0] is " + std::to_string(cols()) +
                       ", expected x.shape[-1] = " + std::to_string(rows.cols()));
    };
    fits();
    ColumnStats state = rows.view_of_state();
    call.run([&] { column_stats_(view, state); });
    rows.n_ = state.n;
    rows.dtype_ = view.dtype == DType::f64 ? DType::f64 : DType::f32;
    rows.like_ = call.create("x", x, {0}, rows.dtype_).finish();
    fits();
    take(rows);
  }

  void merge(const Stats& other) {
    if (!other.like_) return;
    if (like_ && other.cols() != cols()) {
      throw ValueError("merge: other has " + std::to_string(other.cols()) + " columns, expected " +
                       std::to_string(cols()));
    }
    take(Stats(other));  // a copy: it may be this one
  }

  [[nodiscard]] std::int64_t n() const { return n_; }

  template <class F>
  [[nodiscard]] py::object array(F&& value) const {
    if (!like_) throw ValueError("ColumnStats: nothing was added yet");
    Output out({"ColumnStats", "result"}, like_, {cols()}, dtype_);
    for (std::int64_t j = 0; j < cols(); ++j) {
      const double x = value(at(0, j), at(1, j), at(2, j));
      if (dtype_ == DType::f64) {
        static_cast<double*>(out.view().data)[j] = x;
      } else {
        static_cast<float*>(out.view().data)[j] = static_cast<float>(x);
      }
    }
    return out.finish();
  }

  [[nodiscard]] ColumnStats view_of_state() const {
    const auto part = [this](int i) {
      return make_view(sums_.data() + i * cols(), DType::f64, {cols()});
    };
    return {.n = n_, .sum = writable(part(0)), .sumsq = writable(part(1)), .m2 = writable(part(2))};
  }

 private:
  static TensorView writable(TensorView view) {
    view.readonly = false;
    return view;
  }
  [[nodiscard]] std::int64_t cols() const { return static_cast<std::int64_t>(sums_.size() / 3); }
  [[nodiscard]] double at(int part, std::int64_t j) const {
    return sums_[static_cast<std::size_t>(part * cols() + j)];
  }
  /// Adds what others have seen.
  void take(const Stats& other) {
    if (!like_) {
      *this = other;
      return;
    }
    ColumnStats into = view_of_state();
    merge_(into, other.view_of_state());
    n_ = into.n;
  }

  std::int64_t n_ = 0;
  std::vector<double> sums_;  // sum, sumsq, m2
  py::object like_;           // null until rows were added
  DType dtype_ = DType::f32;
};

/// (mask, err): without a `block`, all columns are one and the errors are given.
py::tuple prune_by_obs(Call<Cpu>& call, py::handle w, py::handle u, py::handle mask,
                       std::optional<std::int64_t> k, int n, int m,
                       std::optional<std::int64_t> block) {
  const Import w_import = call.write(w, "w");
  const Flat u_import(call, "u", u);
  const std::optional<Import> mask_import = call.read_optional(mask, "mask");
  if (mask_import && (k || m > 0)) {
    throw ValueError(call.where("mask").text() + " is given beside k or nm, expected one of them");
  }
  if (!mask_import && !k && m == 0) {
    throw ValueError(std::string(call.op()) +
                     ": none of k, nm and mask is given, expected one of them");
  }
  const TensorView& view = w_import.view();
  if (view.rank != 2) {
    throw ValueError(call.where("w").text() + ".ndim is " + std::to_string(view.rank) +
                     ", expected 2");
  }
  std::optional<Output> chosen, err;
  if (!mask_import) chosen.emplace(call.create("mask", w, shape_of(view), DType::boolean));
  if (!block) err.emplace(call.create("err", w, shape_of(view), u_import.view().dtype));
  std::optional<TensorView> err_view;
  if (err) err_view = err->view();
  const TensorView& mask_view = chosen ? chosen->view() : mask_import->view();
  call.run([&] {
    obs_prune_(view, u_import.view(), mask_view,
               {.k = k,
                .n = n,
                .m = m,
                .block = block.value_or(std::max<std::int64_t>(view.shape[1], 1)),
                .op = call.op()},
               err_view);
  });
  return py::make_tuple(chosen ? chosen->finish() : py::reinterpret_borrow<py::object>(mask),
                        err ? err->finish() : py::none());
}

py::object obs_prune_binding(Call<Cpu>& call, py::handle w, py::handle u, py::handle mask,
                             std::optional<std::int64_t> k, int n, int m, std::int64_t block) {
  return prune_by_obs(call, w, u, mask, k, n, m, block)[0];
}

py::tuple obs_block_binding(Call<Cpu>& call, py::handle w, py::handle u, py::handle mask,
                            std::optional<std::int64_t> k, int n, int m) {
  return prune_by_obs(call, w, u, mask, k, n, m, std::nullopt);
}

void dsnot_binding(Call<Cpu>& call, py::handle mask, py::handle w, const Stats& stats,
                   double tolerance, std::int64_t max_iter, double power, bool same_sign,
                   std::int64_t group) {
  const Import mask_import = call.write(mask, "mask");
  const Import w_import = call.read(w, "w");
  if (stats.n() == 0) {
    throw ValueError("dsnot_rows_: stats.n is 0, expected at least one row of activations");
  }
  const Stats now = stats;  // other threads may add rows meanwhile
  const ColumnStats state = now.view_of_state();
  call.run([&] {
    dsnot_rows_(mask_import.view(), w_import.view(), state,
                {.tolerance = tolerance,
                 .max_iter = max_iter,
                 .power = power,
                 .same_sign = same_sign,
                 .group = group});
  });
}

py::object channel_threshold_binding(Call<Cpu>& call, py::handle squares, double scale) {
  const Import import = call.read(squares, "squares");
  Output out = call.create("thresholds", squares, shape_of(import.view()), DType::f32);
  call.run([&] { channel_threshold(import.view(), scale, out.view()); });
  return out.finish();
}

}  // namespace

void bind_layerwise(py::module_& module) {
  py::class_<Stats>(module, "ColumnStats", py::is_final())
      .def(py::init<>())
      .def("add", &Stats::add, py::arg("x"))
      .def("merge", &Stats::merge, py::arg("other"))
      .def_property_readonly("n", &Stats::n)
      .def_property_readonly(
          "sum",
          [](const Stats& s) { return s.array([](double sum, double, double) { return sum; }); })
      .def_property_readonly("sumsq",
                             [](const Stats& s) {
                               return s.array([](double, double sumsq, double) { return sumsq; });
                             })
      .def_property_readonly("mean",
                             [](const Stats& s) {
                               const auto n = static_cast<double>(s.n());
                               return s.array([n](double sum, double, double) { return sum / n; });
                             })
      .def_property_readonly("var", [](const Stats& s) {
        const auto n = static_cast<double>(s.n());
        return s.array([n](double, double, double m2) { return m2 / n; });
      });
  define(module, "obs_prune_", &obs_prune_binding, py::arg("w"), py::arg("u"), py::arg("mask"),
         py::arg("k"), py::arg("n"), py::arg("m"), py::arg("block"));
  define(module, "obs_block_", &obs_block_binding, py::arg("w"), py::arg("u"), py::arg("mask"),
         py::arg("k"), py::arg("n"), py::arg("m"));
  define(module, "dsnot_rows_", &dsnot_binding, py::arg("mask"), py::arg("w"), py::arg("stats"),
         py::arg("tolerance"), py::arg("max_iter"), py::arg("power"), py::arg("same_sign"),
         py::arg("group"));
  define(module, "channel_threshold", &channel_threshold_binding, py::arg("squares"),
         py::arg("scale"));
}

}  // namespace gossamer::python
