#include "prune/layerwise.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/gil.h"
#include "base/output.h"
#include "formats/handle.h"
#include "gossamer/error.h"
#include "gossamer/graph.h"
#include "gossamer/prune/diagnostics.h"
#include "gossamer/prune/layerwise.h"
#include "gossamer/prune/proximal.h"

namespace gossamer::python {
using namespace prune;
namespace {

/// The state of ColumnStats, and an empty array of the framework that its results belong to.
class Stats {
 public:
  void add(py::handle x) {
    const Import import = Import::to_read(x, {"column_stats_", "x"});
    const TensorView& view = import.view();
    if (view.rank == 0) throw ValueError("column_stats_: x.ndim is 0, expected at least 1");
    const bool first = sums_.empty();
    if (first) resize(view.shape[static_cast<std::size_t>(view.rank - 1)]);
    ColumnStats state = view_of_state();
    try {
      const GilRelease unlocked;
      column_stats_(view, state);
    } catch (...) {
      if (first) sums_.clear();
      throw;
    }
    n_ = state.n;
    if (!like_) {
      dtype_ = view.dtype == DType::f64 ? DType::f64 : DType::f32;
      like_ = Output(Where{"column_stats_", "x"}, x, Shape{0}, dtype_).finish();
    }
  }

  void merge(const Stats& other) {
    if (other.sums_.empty()) return;
    if (sums_.empty()) {
      *this = other;
      return;
    }
    if (other.cols() != cols()) {
      throw ValueError("merge: other has " + std::to_string(other.cols()) + " columns, expected " +
                       std::to_string(cols()));
    }
    ColumnStats into = view_of_state();
    // A copy: it may be this one.
    const Stats from = other;
    merge_(into, from.view_of_state());
    n_ = into.n;
  }

  [[nodiscard]] std::int64_t n() const { return n_; }

  template <class F>
  [[nodiscard]] py::object array(F&& value) const {
    if (!like_) throw ValueError("ColumnStats: nothing was added yet");
    Output out(Where{"ColumnStats", "result"}, like_, Shape{cols()}, dtype_);
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
  void resize(std::int64_t cols) { sums_.assign(static_cast<std::size_t>(3 * cols), 0.0); }

  std::int64_t n_ = 0;
  std::vector<double> sums_;  // sum, sumsq, m2
  py::object like_;
  DType dtype_ = DType::f32;
};

/// With `block` 0 one block, and its errors.
py::tuple obs_prune_binding(py::handle w, py::handle u, py::handle mask,
                            std::optional<std::int64_t> k, int n, int m, std::int64_t block) {
  const bool with_err = block == 0;
  const char* op = with_err ? "obs_block_" : "obs_prune_";
  const Import w_import = Import::to_write(w, {op, "w"});
  const Flat u_import(u, {op, "u"});
  const std::optional<Import> mask_import = read_optional(mask, {op, "mask"});
  if (mask_import && (k || m > 0)) {
    throw ValueError(std::string(op) + ": mask is given beside k or nm, expected one of them");
  }
  if (!mask_import && !k && m == 0) {
    throw ValueError(std::string(op) + ": none of k, nm and mask is given, expected one of them");
  }
  const TensorView& view = w_import.view();
  if (view.rank != 2) {
    throw ValueError(std::string(op) + ": w.ndim is " + std::to_string(view.rank) + ", expected 2");
  }
  std::optional<Output> chosen, err;
  if (!mask_import) chosen.emplace(Where{op, "mask"}, w, shape_of(view), DType::boolean);
  if (with_err) err.emplace(Where{op, "err"}, w, shape_of(view), u_import.view().dtype);
  std::optional<TensorView> err_view;
  if (err) err_view = err->view();
  const TensorView& mask_view = chosen ? chosen->view() : mask_import->view();
  {
    const GilRelease unlocked;
    obs_prune_(view, u_import.view(), mask_view,
               {.k = k,
                .n = n,
                .m = m,
                .block = with_err ? std::max<std::int64_t>(view.shape[1], 1) : block,
                .op = op},
               err_view);
  }
  return py::make_tuple(chosen ? chosen->finish() : py::reinterpret_borrow<py::object>(mask),
                        err ? err->finish() : py::none());
}

void dsnot_binding(py::handle mask, py::handle w, const Stats& stats, double tolerance,
                   std::int64_t max_iter, double power, bool same_sign, std::int64_t group) {
  constexpr const char* op = "dsnot_rows_";
  const Import mask_import = Import::to_write(mask, {op, "mask"});
  const Import w_import = Import::to_read(w, {op, "w"});
  if (stats.n() == 0) {
    throw ValueError("dsnot_rows_: stats.n is 0, expected at least one row of activations");
  }
  const ColumnStats state = stats.view_of_state();
  const GilRelease unlocked;
  dsnot_rows_(mask_import.view(), w_import.view(), state,
              {.tolerance = tolerance,
               .max_iter = max_iter,
               .power = power,
               .same_sign = same_sign,
               .group = group});
}

py::object channel_threshold_binding(py::handle squares, double scale) {
  const Import import = Import::to_read(squares, {"channel_threshold", "squares"});
  Output out("channel_threshold", py::none(), squares, shape_of(import.view()), DType::f32);
  channel_threshold(import.view(), scale, out.view());
  return out.finish();
}

Groups groups_of(const std::string& kind, std::int64_t length) {
  if (kind == "row") return {.kind = Groups::Kind::rows};
  if (kind == "column") return {.kind = Groups::Kind::columns};
  return {.kind = Groups::Kind::runs, .length = length};
}

void soft_threshold_binding(py::handle w, double threshold) {
  const Import import = Import::to_write(w, {"soft_threshold_", "w"});
  const GilRelease unlocked;
  soft_threshold_(import.view(), threshold);
}

void group_soft_threshold_binding(py::handle w, double threshold, const std::string& kind,
                                  std::int64_t length) {
  const Import import = Import::to_write(w, {"group_soft_threshold_", "w"});
  const GilRelease unlocked;
  group_soft_threshold_(import.view(), threshold, groups_of(kind, length));
}

void sef_prox_binding(py::handle w, double lambda, double k, const std::string& kind,
                      std::int64_t length) {
  const Import import = Import::to_write(w, {"sef_prox_", "w"});
  const GilRelease unlocked;
  sef_prox_(import.view(), lambda, k, groups_of(kind, length));
}

py::object l0_project_binding(py::handle w, std::int64_t k) {
  const Import import = Import::to_write(w, {"l0_project_", "w"});
  Output mask(Where{"l0_project_", "mask"}, w, shape_of(import.view()), DType::boolean);
  {
    const GilRelease unlocked;
    l0_project_(import.view(), k, mask.view());
  }
  return mask.finish();
}

void shrink_binding(py::handle w, py::handle mask, double factor) {
  const Import import = Import::to_write(w, {"shrink_", "w"});
  const Import mask_import = Import::to_read(mask, {"shrink_", "mask"});
  const GilRelease unlocked;
  shrink_(import.view(), mask_import.view(), factor);
}

void srste_grad_binding(py::handle g, py::handle w, py::handle mask, double decay) {
  const Import import = Import::to_write(g, {"srste_grad_", "g"});
  const Import w_import = Import::to_read(w, {"srste_grad_", "w"});
  const Import mask_import = Import::to_read(mask, {"srste_grad_", "mask"});
  const GilRelease unlocked;
  srste_grad_(import.view(), w_import.view(), mask_import.view(), decay);
}

py::tuple polarization_binding(py::handle gamma, double t, double alpha) {
  const Import import = Import::to_read(gamma, {"polarization", "gamma"});
  Output grad(Where{"polarization", "grad"}, gamma, shape_of(import.view()), import.view().dtype);
  const double value = polarization(import.view(), t, alpha, grad.view());
  return py::make_tuple(value, grad.finish());
}

py::object edge_score_binding(const CsrHandle& a) {
  Output scores(Where{"edge_score", "scores"}, a.values, {a.matrix.nnz()}, DType::f32);
  {
    const GilRelease unlocked;
    graph::edge_score(a.matrix, scores.view());
  }
  return scores.finish();
}

py::object strength_binding(const CsrHandle& a, int axis) {
  const DType dtype = a.matrix.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Output sums(Where{"strength", "out"}, a.values, {axis == 1 ? a.matrix.rows() : a.matrix.cols()},
              dtype);
  {
    const GilRelease unlocked;
    graph::strength(a.matrix, axis, sums.view());
  }
  return sums.finish();
}

py::object mean_binding(const py::list& matrices) {
  std::vector<Csr> views;
  for (const py::handle matrix : matrices) views.push_back(matrix.cast<const CsrHandle&>().matrix);
  if (views.empty()) {
    throw ValueError("mean_same_pattern: matrices is empty, expected at least one");
  }
  const py::object& like = matrices[0].cast<const CsrHandle&>().values;
  Output values(Where{"mean_same_pattern", "values"}, like, {views[0].nnz()}, views[0].dtype());
  {
    const GilRelease unlocked;
    mean_same_pattern(views, values.view());
  }
  return values.finish();
}

std::int64_t coverage_binding(py::handle fired, py::handle mask) {
  const Import fired_import = Import::to_write(fired, {"coverage_or_", "fired"});
  const Import mask_import = Import::to_read(mask, {"coverage_or_", "mask"});
  const GilRelease unlocked;
  return coverage_or_(fired_import.view(), mask_import.view());
}

/// Counts in blocks of rows x cols of an array [height, width] or a matrix, in the framework of
/// `like`; 0 stands for the whole extent.
template <class Count>
py::object count_blocks(py::handle like, std::int64_t height, std::int64_t width, std::int64_t rows,
                        std::int64_t cols, Count&& count) {
  constexpr const char* op = "nnz_stats";
  const auto blocks = [](std::int64_t extent, std::int64_t block) {
    return block == 0 ? std::int64_t{1} : (extent + block - 1) / block;
  };
  if (rows < 0 || cols < 0) {
    throw ValueError("nnz_stats: block is (" + std::to_string(rows) + ", " + std::to_string(cols) +
                     "), expected at least 1 each");
  }
  Shape shape;
  if (rows != 0) shape.push_back(blocks(height, rows));
  if (cols != 0) shape.push_back(blocks(width, cols));
  Output out(Where{op, "counts"}, like, shape, DType::i64);
  const TensorView counts =
      make_view(out.view().data, DType::i64, {blocks(height, rows), blocks(width, cols)});
  if (height * width == 0) {
    for (std::int64_t i = 0; i < counts.numel(); ++i)
      static_cast<std::int64_t*>(counts.data)[i] = 0;
  } else {
    const GilRelease unlocked;
    count(rows == 0 ? height : rows, cols == 0 ? width : cols, counts);
  }
  return out.finish();
}

py::object nnz_stats_binding(py::handle x, std::int64_t rows, std::int64_t cols) {
  const Import import = Import::to_read(x, {"nnz_stats", "x"});
  const TensorView& view = import.view();
  if (view.rank != 2) {
    throw ValueError("nnz_stats: x.ndim is " + std::to_string(view.rank) + ", expected 2");
  }
  return count_blocks(x, view.shape[0], view.shape[1], rows, cols,
                      [&](std::int64_t r, std::int64_t c, const TensorView& counts) {
                        nnz_stats(view, r, c, counts);
                      });
}

template <class Format>
py::object nnz_stats_of(const Handle<Format>& a, std::int64_t rows, std::int64_t cols) {
  if (a.matrix.device().type != DeviceType::cpu) {
    throw NotImplementedError("nnz_stats: x is on " + to_string(a.matrix.device()) +
                              ", which has no kernels for it");
  }
  return count_blocks(a.values, a.matrix.rows(), a.matrix.cols(), rows, cols,
                      [&](std::int64_t r, std::int64_t c, const TensorView& counts) {
                        nnz_stats(a.matrix, r, c, counts);
                      });
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
  module.def("obs_prune_", &obs_prune_binding, py::arg("w"), py::arg("u"), py::arg("mask"),
             py::arg("k"), py::arg("n"), py::arg("m"), py::arg("block"));
  module.def("dsnot_rows_", &dsnot_binding, py::arg("mask"), py::arg("w"), py::arg("stats"),
             py::arg("tolerance"), py::arg("max_iter"), py::arg("power"), py::arg("same_sign"),
             py::arg("group"));
  module.def("channel_threshold", &channel_threshold_binding, py::arg("squares"), py::arg("scale"));
  module.def("soft_threshold_", &soft_threshold_binding, py::arg("w"), py::arg("threshold"));
  module.def("group_soft_threshold_", &group_soft_threshold_binding, py::arg("w"),
             py::arg("threshold"), py::arg("kind"), py::arg("length"));
  module.def("sef_prox_", &sef_prox_binding, py::arg("w"), py::arg("lam"), py::arg("k"),
             py::arg("kind"), py::arg("length"));
  module.def("l0_project_", &l0_project_binding, py::arg("w"), py::arg("k"));
  module.def("shrink_", &shrink_binding, py::arg("w"), py::arg("mask"), py::arg("factor"));
  module.def("srste_grad_", &srste_grad_binding, py::arg("g"), py::arg("w"), py::arg("mask"),
             py::arg("decay"));
  module.def("polarization", &polarization_binding, py::arg("gamma"), py::arg("t"),
             py::arg("alpha"));
  module.def("edge_score", &edge_score_binding, py::arg("a"));
  module.def("strength", &strength_binding, py::arg("a"), py::arg("axis"));
  module.def("mean_same_pattern", &mean_binding, py::arg("matrices"));
  module.def("coverage_or_", &coverage_binding, py::arg("fired"), py::arg("mask"));
  module.def("nnz_stats_csr", &nnz_stats_of<Csr>, py::arg("a"), py::arg("rows"), py::arg("cols"));
  module.def("nnz_stats_bsr", &nnz_stats_of<Bsr>, py::arg("a"), py::arg("rows"), py::arg("cols"));
  module.def("nnz_stats", &nnz_stats_binding, py::arg("x"), py::arg("rows"), py::arg("cols"));
}

}  // namespace gossamer::python
