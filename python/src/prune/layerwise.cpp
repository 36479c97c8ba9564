#include "prune/layerwise.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
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
    call.run([&] { column_stats_(state, view); });
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

  /// value(n, sum, sumsq, m2) of each column.
  template <class F>
  [[nodiscard]] py::object array(F&& value) const {
    if (!like_) throw ValueError("ColumnStats: nothing was added yet");
    const Stats now = *this;  // other threads may add rows while the array is made
    Output out({"ColumnStats", "result"}, now.like_, {now.cols()}, now.dtype_);
    const auto n = static_cast<double>(now.n_);
    for (std::int64_t j = 0; j < now.cols(); ++j) {
      const double x = value(n, now.at(0, j), now.at(1, j), now.at(2, j));
      if (now.dtype_ == DType::f64) {
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

using Pair = std::optional<std::pair<std::int64_t, std::int64_t>>;

std::optional<NmPattern> pattern_of(const Pair& nm) {
  if (!nm) return std::nullopt;
  return NmPattern{.n = nm->first, .m = nm->second};
}

/// The mask of one of both OBS operations: the caller's, which is read, or `out` or a new one,
/// which is written.
class ObsMask {
 public:
  ObsMask(Call<Cpu>& call, py::handle w, const TensorView& view, py::handle mask, py::handle out,
          const std::optional<std::int64_t>& k, const Pair& nm) {
    if (!mask.is_none() && (k || nm)) {
      throw ValueError(call.where("mask").text() +
                       " is given beside k or nm, expected one of them");
    }
    if (mask.is_none() && !k && !nm) {
      throw ValueError(std::string(call.op()) +
                       ": none of k, nm and mask is given, expected one of them");
    }
    if (mask.is_none()) {
      written_.emplace(call.output(out, w, shape_of(view), DType::boolean));
      return;
    }
    if (!out.is_none()) {
      throw ValueError(call.where("out").text() + " is given beside mask, expected one of them");
    }
    array_ = py::reinterpret_borrow<py::object>(mask);
    read_ = call.read(mask, "mask");
  }

  [[nodiscard]] const TensorView& view() const {
    return written_ ? written_->view() : read_->view();
  }
  [[nodiscard]] py::object finish() { return written_ ? written_->finish() : array_; }

 private:
  py::object array_;
  std::optional<Import> read_;
  std::optional<Output> written_;
};

py::object obs_prune_binding(Call<Cpu>& call, py::handle w, py::handle u, py::handle mask,
                             std::optional<std::int64_t> k, const Pair& nm, std::int64_t block,
                             py::handle out) {
  const Import w_import = call.write(w, "w");
  const Flat u_import(call, "u", u);
  ObsMask kept(call, w, w_import.view(), mask, out, k, nm);
  call.run([&] {
    obs_prune_(w_import.view(), u_import.view(), kept.view(),
               {.k = k, .nm = pattern_of(nm), .block = block});
  });
  return kept.finish();
}

py::tuple obs_block_binding(Call<Cpu>& call, py::handle w, py::handle u, py::handle mask,
                            std::optional<std::int64_t> k, const Pair& nm, py::handle mask_out,
                            py::handle err_out) {
  const Import w_import = call.write(w, "w");
  const Flat u_import(call, "u", u);
  const TensorView& view = w_import.view();
  ObsMask kept(call, w, view, mask, mask_out, k, nm);
  Output err = call.output(err_out, w, shape_of(view), u_import.view().dtype, "out[1]");
  call.run([&] {
    obs_block_(view, u_import.view(), kept.view(), {.k = k, .nm = pattern_of(nm)}, err.view());
  });
  return py::make_tuple(kept.finish(), err.finish());
}

void dsnot_binding(Call<Cpu>& call, py::handle mask, py::handle w, const Stats& stats,
                   double tolerance, std::int64_t max_iter, double power, bool same_sign,
                   std::optional<std::int64_t> group) {
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

py::object channel_threshold_binding(Call<Cpu>& call, py::handle squares, double scale,
                                     py::handle out) {
  const Import import = call.read(squares, "squares");
  Output result = call.output(out, squares, shape_of(import.view()), DType::f32);
  call.run([&] { channel_threshold(import.view(), scale, result.view()); });
  return result.finish();
}

py::object cett_threshold_binding(Call<Cpu>& call, py::handle w, double t, py::handle out) {
  const Import import = call.read(w, "w_out");
  Output result = call.output(out, w, {import.view().shape[1]}, DType::f32);
  call.run([&] { cett_threshold(import.view(), t, result.view()); });
  return result.finish();
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
          [](const Stats& s) {
            return s.array([](double, double sum, double, double) { return sum; });
          })
      .def_property_readonly(
          "sumsq",
          [](const Stats& s) {
            return s.array([](double, double, double sumsq, double) { return sumsq; });
          })
      .def_property_readonly(
          "mean",
          [](const Stats& s) {
            return s.array([](double n, double sum, double, double) { return sum / n; });
          })
      .def_property_readonly("var", [](const Stats& s) {
        return s.array([](double n, double, double, double m2) { return m2 / n; });
      });
  define(module, "obs_prune_", &obs_prune_binding, py::arg("w"), py::arg("u"), py::arg("mask"),
         py::arg("k"), py::arg("nm"), py::arg("block"), py::arg("out"));
  define(module, "obs_block_", &obs_block_binding, py::arg("w"), py::arg("u"), py::arg("mask"),
         py::arg("k"), py::arg("nm"), py::arg("mask_out"), py::arg("err_out"));
  define(module, "dsnot_rows_", &dsnot_binding, py::arg("mask"), py::arg("w"), py::arg("stats"),
         py::arg("tolerance"), py::arg("max_iter"), py::arg("power"), py::arg("same_sign"),
         py::arg("per"));
  define(module, "channel_threshold", &channel_threshold_binding, py::arg("squares"),
         py::arg("scale"), py::arg("out"));
  define(module, "cett_threshold", &cett_threshold_binding, py::arg("w"), py::arg("t"),
         py::arg("out"));
}

}  // namespace gossamer::python
