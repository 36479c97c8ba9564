#include "prune/diagnostics.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/call.h"
#include "formats/handle.h"
#include "gossamer/error.h"
#include "gossamer/prune/diagnostics.h"

namespace gossamer::python {
using namespace prune;
namespace {

py::object mean_binding(Call<Cpu>& call, const py::list& matrices) {
  std::vector<Csr> views;
  for (const py::handle matrix : matrices) {
    views.push_back(py::cast<const CsrHandle&>(matrix).matrix);
    call.settle("matrices", views.back().device());
  }
  if (views.empty()) {
    throw ValueError("mean_same_pattern: matrices is empty, expected at least one");
  }
  const py::object& like = py::cast<const CsrHandle&>(matrices[0]).values.array;
  Output values = call.create("values", like, {views[0].nnz()}, views[0].dtype());
  call.run([&] { mean_same_pattern(views, values.view()); });
  return values.finish();
}

std::int64_t coverage_binding(Call<Cpu>& call, py::handle fired, py::handle mask) {
  const Import fired_import = call.write(fired, "fired");
  const Import mask_import = call.read(mask, "mask");
  return call.run([&] { return coverage_or_(fired_import.view(), mask_import.view()); });
}

/// `x` is a sparse matrix or an array; a side of the block is None for the matrix's.
py::object nnz_stats_binding(Call<Cpu>& call, py::handle x, std::optional<std::int64_t> rows,
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
    call.run([&] { nnz_stats(counted, block, result.view()); });
    return result.finish();
  };
  if (as<Csr>(x) != nullptr || as<Bsr>(x) != nullptr) {
    return with_held<Csr, Bsr>(call, "x", x, [&](const auto& held) {
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

void bind_diagnostics(py::module_& module) {
  define(module, "mean_same_pattern", &mean_binding, py::arg("matrices"));
  define(module, "coverage_or_", &coverage_binding, py::arg("fired"), py::arg("mask"));
  define(module, "nnz_stats", &nnz_stats_binding, py::arg("x"), py::arg("rows"), py::arg("cols"),
         py::arg("out"));
}

}  // namespace gossamer::python
