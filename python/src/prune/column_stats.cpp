#include "prune/column_stats.h"

#include <optional>

#include "prune/layerwise.h"

namespace gossamer::python {
using namespace prune;
namespace {

TensorView writable(TensorView view) {
  view.readonly = false;
  return view;
}

}  // namespace

ColumnStats Stats::view_of_state() const {
  const auto part = [this](int i) {
    return writable(make_view(sums_.data() + i * cols_, DType::f64, {cols_}));
  };
  return {.n = n_, .sum = part(0), .sumsq = part(1), .m2 = part(2)};
}

void Stats::add(py::handle x) {
  constexpr const char* kOp = "column_stats_";
  Stats rows;
  const auto fits = [&] {
    if (!like_) return;
    if (!(rows.device_ == device_)) {
      throw ValueError(std::string(kOp) + ": x is on " + to_string(rows.device_) +
                       ", expected stats's device " + to_string(device_));
    }
    if (rows.cols_ == cols_) return;
    throw ValueError(std::string(kOp) + ": stats.shape[0] is " + cols_text() +
                     ", expected x.shape[-1] = " + rows.cols_text());
  };
  Call<Cpu> call(kOp);
  std::optional<Import> import;
  try {
    import = call.read(x, "x");
  } catch (const Elsewhere& elsewhere) {
    const py::object function = on_gpu(elsewhere.where(), elsewhere.device(), "column_stats");
    if (!function) throw;
    const py::tuple made = Hook(function)(x);
    rows.there_ = rows.like_ = made[0];
    rows.n_ = made[1].cast<std::int64_t>();
    rows.cols_ = made[2].cast<std::int64_t>();
    rows.dtype_ = made[3].cast<bool>() ? DType::f64 : DType::f32;
    rows.device_ = elsewhere.device();
    fits();
    take(rows);
    return;
  }
  const TensorView& view = import->view();
  if (view.rank == 0) throw ValueError(std::string(kOp) + ": x.ndim is 0, expected at least 1");
  rows.cols_ = view.shape[static_cast<std::size_t>(view.rank - 1)];
  rows.sums_.assign(static_cast<std::size_t>(3 * rows.cols_), 0.0);
  fits();
  ColumnStats state = rows.view_of_state();
  call.run([&] { column_stats_(state, view); });
  rows.n_ = state.n;
  rows.dtype_ = view.dtype == DType::f64 ? DType::f64 : DType::f32;
  rows.like_ = call.create("x", x, {0}, rows.dtype_).finish();
  fits();
  take(rows);
}

void Stats::merge(const Stats& other) {
  if (!other.like_) return;
  if (like_ && !(other.device_ == device_)) {
    throw ValueError("merge: other is on " + to_string(other.device_) + ", expected " +
                     to_string(device_));
  }
  if (like_ && other.cols_ != cols_) {
    throw ValueError("merge: other has " + other.cols_text() + " columns, expected " + cols_text());
  }
  take(Stats(other));  // a copy: it may be this one
}

py::object Stats::on_its_gpu(const char* function) const {
  return on_gpu({"ColumnStats", "stats"}, device_, function);
}

void Stats::take(const Stats& other) {
  if (!like_) {
    *this = other;
    return;
  }
  if (!there_) {
    ColumnStats into = view_of_state();
    merge_(into, other.view_of_state());
    n_ = into.n;
    return;
  }
  // Another thread may replace the state while this one queues the work.
  const Hook merge_stats(on_its_gpu("merge_stats"));
  while (true) {
    const py::object before = there_;
    const std::int64_t n = n_;
    const py::object merged = merge_stats(before, n, other.there_, other.n_);
    if (!there_.is(before)) continue;
    there_ = like_ = merged;
    n_ = n + other.n_;
    return;
  }
}

py::object Stats::array(int part, bool divided) const {
  if (!like_) throw ValueError("ColumnStats: nothing was added yet");
  const Stats now = *this;  // other threads may add rows while the array is made
  const double n = divided ? static_cast<double>(now.n_) : 1;
  if (now.there_) {
    const Hook quotient(on_its_gpu("column_quotient"));
    return quotient(now.there_, part, n, now.dtype_ == DType::f64);
  }
  Output out({"ColumnStats", "result"}, now.like_, {now.cols_}, now.dtype_);
  for (std::int64_t j = 0; j < now.cols_; ++j) {
    const double x = now.sums_[static_cast<std::size_t>(part * now.cols_ + j)] / n;
    if (now.dtype_ == DType::f64) {
      static_cast<double*>(out.view().data)[j] = x;
    } else {
      static_cast<float*>(out.view().data)[j] = static_cast<float>(x);
    }
  }
  return out.finish();
}

void bind_column_stats(py::module_& module) {
  const auto array = [](int part, bool divided) {
    return [part, divided](const Stats& stats) { return stats.array(part, divided); };
  };
  py::class_<Stats>(module, "ColumnStats", py::is_final())
      .def(py::init<>())
      .def("add", &Stats::add, py::arg("x"))
      .def("merge", &Stats::merge, py::arg("other"))
      .def_property_readonly("n", &Stats::n)
      .def_property_readonly("sum", array(0, false))
      .def_property_readonly("sumsq", array(1, false))
      .def_property_readonly("mean", array(0, true))
      .def_property_readonly("var", array(2, true));
}

}  // namespace gossamer::python
