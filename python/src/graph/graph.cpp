#include "graph/graph.h"

#include "base/call.h"
#include "formats/handle.h"
#include "gossamer/graph.h"

namespace gossamer::python {
namespace {

py::object edge_score_binding(Call<Cpu>& call, py::handle a) {
  return with_held<Csr>(call, "a", a, [&](const CsrHandle& held) {
    Output scores = call.create("scores", held.values.array, {held.matrix.nnz()}, DType::f32);
    call.run([&] { graph::edge_score(held.matrix, scores.view()); });
    return scores.finish();
  });
}

py::object strength_binding(Call<Cpu>& call, py::handle a, int axis) {
  return with_held<Csr>(call, "a", a, [&](const CsrHandle& held) {
    const Csr& matrix = held.matrix;
    const DType dtype = matrix.dtype() == DType::f64 ? DType::f64 : DType::f32;
    Output sums =
        call.create("sums", held.values.array, {axis == 1 ? matrix.rows() : matrix.cols()}, dtype);
    call.run([&] { graph::strength(matrix, axis, sums.view()); });
    return sums.finish();
  });
}

}  // namespace

void bind_graph(py::module_& module) {
  define(module, "edge_score", &edge_score_binding, py::arg("a"));
  define(module, "strength", &strength_binding, py::arg("a"), py::arg("axis"));
}

}  // namespace gossamer::python
