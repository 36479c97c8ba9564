#include "cuda/layerwise.h"

#include <cstdint>
#include <string>

#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/cuda.h"
#include "prune/column_stats.h"

namespace gossamer::python {
namespace {

/// The statistics of the rows of x, float64 [3, C]; how many rows, columns, and whether of float64.
py::tuple column_stats_binding(Call<Cuda>& call, py::handle x) {
  const Import import = call.read(x, "x");
  const TensorView& view = import.view();
  const std::int64_t cols = view.rank > 0 ? view.shape[static_cast<std::size_t>(view.rank - 1)] : 0;
  Output state = call.create("x", x, {3, cols}, DType::f64);
  prune::ColumnStats stats = columns_of(state.view(), 0);
  const auto workspace = call.workspace(
      x, [](const TensorView& rows) { return cuda::column_stats_workspace(rows); }, view);
  call.run(workspace, [&](const TensorView& memory, cuda::Stream stream) {
    cuda::fill_zero(state.view(), stream);
    cuda::column_stats_(stats, view, memory, stream);
  });
  return py::make_tuple(state.finish(), stats.n, cols, view.dtype == DType::f64);
}

py::object merge_stats_binding(Call<Cuda>& call, py::handle stats, std::int64_t n, py::handle other,
                               std::int64_t other_n) {
  const Import import = call.read(stats, "stats"), other_import = call.read(other, "other");
  Output state = call.create("stats", stats, shape_of(import.view()), DType::f64);
  call.run([&](cuda::Stream stream) {
    cuda::fill_zero(state.view(), stream);
    prune::ColumnStats sum = columns_of(state.view(), 0);
    cuda::merge_(sum, columns_of(import.view(), n), stream);
    cuda::merge_(sum, columns_of(other_import.view(), other_n), stream);
  });
  return state.finish();
}

py::object column_quotient_binding(Call<Cuda>& call, py::handle stats, int part, double n,
                                   bool f64) {
  const Import import = call.read(stats, "stats");
  const prune::ColumnStats state = columns_of(import.view(), 0);
  Output result =
      call.create("stats", stats, {import.view().shape[1]}, f64 ? DType::f64 : DType::f32);
  const TensorView& numerator = part == 0 ? state.sum : part == 1 ? state.sumsq : state.m2;
  call.run(
      [&](cuda::Stream stream) { cuda::column_quotient(numerator, n, result.view(), stream); });
  return result.finish();
}

/// The factor that obs_prune_ takes, and "", or what is wrong with the Hessian.
py::tuple obs_factor_binding(Call<Cuda>& call, py::handle w, py::handle hessian, double damping) {
  const DType type = call.read(w, "w").view().dtype;
  const Import import = call.read(hessian, "hessian");
  const TensorView& view = import.view();
  const std::int64_t n = view.rank == 2 ? view.shape[0] : 0;
  Output u = call.create("hessian", hessian, {n, n}, type == DType::f64 ? DType::f64 : DType::f32);
  const auto workspace = call.workspace(
      hessian, [](std::int64_t side) { return cuda::obs_factor_workspace(side); }, n);
  const cuda::Factored done = call.run(workspace, [&](const auto&... queue) {
    return cuda::obs_factor(view, damping, u.view(), queue...);
  });
  const char* wrong = done == cuda::Factored::yes          ? ""
                      : done == cuda::Factored::not_finite ? "not finite"
                                                           : "not positive definite";
  return py::make_tuple(u.finish(), wrong);
}

}  // namespace

void bind_layerwise_steps(py::module_& module) {
  define(module, {"column_stats", "column_stats_"}, &column_stats_binding, py::arg("x"));
  define(module, {"merge_stats", "ColumnStats"}, &merge_stats_binding, py::arg("stats"),
         py::arg("n"), py::arg("other"), py::arg("other_n"));
  define(module, {"column_quotient", "ColumnStats"}, &column_quotient_binding, py::arg("stats"),
         py::arg("part"), py::arg("n"), py::arg("f64"));
  define(module, {"obs_factor", "obs_prune_"}, &obs_factor_binding, py::arg("w"),
         py::arg("hessian"), py::arg("damping"));
}

}  // namespace gossamer::python
