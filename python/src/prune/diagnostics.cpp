#include "prune/diagnostics.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/call.h"
#include "cuda/backend.h"
#include "formats/handle.h"
#include "gossamer/cuda.h"
#include "gossamer/error.h"
#include "gossamer/prune/diagnostics.h"
#include "gossamer/prune/patterns.h"
#include "prune/score.h"

namespace gossamer::python {
namespace {

// The operations of CPUs are found by the types of their arguments: those of GPUs take a workspace
// and a stream more.
using cuda::check_nm, cuda::coverage_or_, cuda::mean_same_pattern, cuda::nnz_stats;
using prune::check_nm, prune::CountBlock, prune::coverage_or_, prune::mean_same_pattern,
    prune::nnz_stats;

template <class Backend>
py::object mean_binding(Call<Backend>& call, const py::list& matrices) {
  std::vector<Csr> views;
  for (const py::handle matrix : matrices) {
    views.push_back(py::cast<const CsrHandle&>(matrix).matrix);
    call.settle("matrices", views.back().device());
  }
  if (views.empty()) {
    throw ValueError("mean_same_pattern: matrices is empty, expected at least one");
  }
  const py::object& like = py::cast<const CsrHandle&>(matrices[0]).values.array;
  call.follow(like, "values");
  Output values = call.create("values", like, {views[0].nnz()}, views[0].dtype());
  const auto workspace = call.workspace(
      like, [](const std::vector<Csr>& given) { return cuda::mean_same_pattern_workspace(given); },
      views);
  call.run(workspace,
           [&](const auto&... queue) { mean_same_pattern(views, values.view(), queue...); });
  return values.finish();
}

template <class Backend>
std::int64_t coverage_binding(Call<Backend>& call, py::handle fired, py::handle mask) {
  const Import fired_import = call.write(fired, "fired");
  const Import mask_import = call.read(mask, "mask");
  const auto workspace = call.workspace(fired, [] { return cuda::kCountWorkspace; });
  return call.run(workspace, [&](const auto&... queue) {
    return coverage_or_(fired_import.view(), mask_import.view(), queue...);
  });
}

template <class Backend>
py::tuple check_nm_binding(Call<Backend>& call, py::handle x, std::int64_t n, std::int64_t m,
                           int axis) {
  const Contiguous<Backend> import(call, "x", x, Flat::Keep::contiguous);
  const auto workspace = call.workspace(x, [] { return cuda::kCountWorkspace; });
  const prune::NmViolations found = call.run(workspace, [&](const auto&... queue) {
    return check_nm(import.view(), n, m, axis, queue...);
  });
  return py::make_tuple(found.count, found.first);
}

/// `x` is a sparse matrix or an array; a side of the block is None for the matrix's.
template <class Backend>
py::object nnz_stats_binding(Call<Backend>& call, py::handle x, std::optional<std::int64_t> rows,
                             std::optional<std::int64_t> cols, py::handle out) {
  const CountBlock block{.rows = rows, .cols = cols};
  const auto count = [&](py::handle like, std::int64_t height, std::int64_t width,
                         const auto& counted) {
    const auto blocks = [](std::int64_t extent, std::int64_t side) {
      return extent < 1 || side < 1 ? std::int64_t{0} : (extent - 1) / side + 1;
    };
    Shape shape;
    if (rows) shape.push_back(blocks(height, *rows));
    if (cols) shape.push_back(blocks(width, *cols));
    Output result = call.output(out, like, shape, DType::i64);
    call.run([&](const auto&... queue) { nnz_stats(counted, block, result.view(), queue...); });
    return result.finish();
  };
  if (as<Csr>(x) != nullptr || as<Bsr>(x) != nullptr) {
    return with_held<Csr, Bsr>(call, "x", x, [&](const auto& held) {
      call.follow(held.values.array, "x");
      return count(held.values.array, held.matrix.rows(), held.matrix.cols(), held.matrix);
    });
  }
  const Import import = call.read(x, "x");
  const TensorView& view = import.view();
  if (view.rank != 2) {
    throw ValueError(call.where("x").text() + ".ndim is " + std::to_string(view.rank) +
                     ", expected 2");
  }
  return count(x, view.shape[0], view.shape[1], view);
}

}  // namespace

template <class Backend>
void bind_diagnostics(py::module_& module) {
  define(module, "mean_same_pattern", &mean_binding<Backend>, py::arg("matrices"));
  define(module, "coverage_or_", &coverage_binding<Backend>, py::arg("fired"), py::arg("mask"));
  define(module, "check_nm", &check_nm_binding<Backend>, py::arg("x"), py::arg("n"), py::arg("m"),
         py::arg("axis"));
  define(module, "nnz_stats", &nnz_stats_binding<Backend>, py::arg("x"), py::arg("rows"),
         py::arg("cols"), py::arg("out"));
}

template void bind_diagnostics<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
