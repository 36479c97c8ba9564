#include "graph/graph.h"

#include <optional>

#include "base/call.h"
#include "formats/handle.h"
#include "gossamer/graph.h"

namespace gossamer::python {
namespace {

py::object edge_score_binding(Call<Cpu>& call, py::handle a, py::handle out) {
  return with_any_csr<false>(call, "a", a, [&](const PatternView& view) {
    Output scores = call.output(out, view.like, {view.matrix.nnz()}, DType::f32);
    call.run([&] { graph::edge_score(view.matrix, scores.view()); });
    return scores.finish();
  });
}

py::object strength_binding(Call<Cpu>& call, py::handle a, int axis, py::handle out) {
  return with_held<Csr>(call, "a", a, [&](const CsrHandle& held) {
    const Csr& matrix = held.matrix;
    const DType dtype = matrix.dtype() == DType::f64 ? DType::f64 : DType::f32;
    Output sums =
        call.output(out, held.values.array, {axis == 1 ? matrix.rows() : matrix.cols()}, dtype);
    call.run([&] { graph::strength(matrix, axis, sums.view()); });
    return sums.finish();
  });
}

}  // namespace

void bind_graph(py::module_& module) {
  define(module, "edge_score", &edge_score_binding, py::arg("a"), py::arg("out"));
  define(module, "strength", &strength_binding, py::arg("a"), py::arg("axis"), py::arg("out"));
}

}  // namespace gossamer::python
