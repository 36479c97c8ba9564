#include "graph/rows.h"

#include <optional>

#include "base/call.h"
#include "cuda/backend.h"
#include "formats/handle.h"
#include "gossamer/cuda.h"
#include "gossamer/graph.h"

namespace gossamer::python {
namespace {

// The operations of both backends have the same names and are found by the types of their
// arguments: those of GPUs take a stream more.
using cuda::graph::edge_score, cuda::graph::row_max, cuda::graph::row_sum,
    cuda::graph::scale_rows_cols, cuda::graph::strength;
using graph::edge_score, graph::row_max, graph::row_sum, graph::scale_rows_cols, graph::strength;

/// The values' shape with `size` in place of the entries.
Shape sets_shape(const PatternView& a, std::int64_t size) {
  Shape shape;
  if (a.values) shape.append(*a.values, 0, a.values->rank - 1);
  shape.push_back(size);
  return shape;
}

DType sums_type(DType values) { return values == DType::f64 ? DType::f64 : DType::f32; }

template <class Backend>
py::object row_sum_binding(Call<Backend>& call, py::handle a, double power, py::handle out) {
  return with_any_csr<true>(call, "a", a, [&](const PatternView& view) {
    call.follow(view.like, "values");
    const DType dtype = view.values ? sums_type(view.values->dtype) : DType::f32;
    Output sums = call.output(out, view.like, sets_shape(view, view.matrix.rows()), dtype);
    call.run([&](const auto&... queue) {
      row_sum(view.matrix, view.values, sums.view(), power, queue...);
    });
    return sums.finish();
  });
}

template <class Backend>
py::object row_max_binding(Call<Backend>& call, py::handle a, py::handle out) {
  return with_any_csr<true>(call, "a", a, [&](const PatternView& view) {
    call.follow(view.like, "values");
    if (!view.values) throw ValueError("row_max: a.values is None, expected an array");
    Output largest = call.output(out, view.like, sets_shape(view, view.matrix.rows()),
                                 sums_type(view.values->dtype));
    call.run([&](const auto&... queue) {
      row_max(view.matrix, *view.values, largest.view(), queue...);
    });
    return largest.finish();
  });
}

template <class Backend>
py::object scale_binding(Call<Backend>& call, py::handle a, py::handle rows, py::handle cols,
                         py::handle out) {
  return with_any_csr<true>(call, "a", a, [&](const PatternView& view) {
    call.follow(view.like, "values");
    const std::optional<Import> row_import = call.read_optional(rows, "rows");
    const std::optional<Import> col_import = call.read_optional(cols, "cols");
    const std::optional<TensorView> row_view = view_of(row_import), col_view = view_of(col_import);
    DType dtype = DType::f32;
    if (view.values) {
      dtype = view.values->dtype;
    } else if (row_view || col_view) {
      dtype = sums_type(row_view ? row_view->dtype : col_view->dtype);
    }
    Output scaled = call.output(out, view.like, sets_shape(view, view.matrix.nnz()), dtype);
    call.run([&](const auto&... queue) {
      scale_rows_cols(view.matrix, view.values, row_view, col_view, scaled.view(), queue...);
    });
    return scaled.finish();
  });
}

template <class Backend>
py::object edge_score_binding(Call<Backend>& call, py::handle a, py::handle out) {
  return with_any_csr<false>(call, "a", a, [&](const PatternView& view) {
    call.follow(view.like, "values");
    Output scores = call.output(out, view.like, {view.matrix.nnz()}, DType::f32);
    const auto workspace = call.workspace(
        view.like,
        [](const CsrPattern& pattern) { return cuda::graph::edge_score_workspace(pattern); },
        view.matrix);
    call.run(workspace,
             [&](const auto&... queue) { edge_score(view.matrix, scores.view(), queue...); });
    return scores.finish();
  });
}

template <class Backend>
py::object strength_binding(Call<Backend>& call, py::handle a, int axis, py::handle out) {
  return with_held<Csr>(call, "a", a, [&](const CsrHandle& held) {
    const Csr& matrix = held.matrix;
    const py::object& like = held.values.array;
    call.follow(like, "values");
    Output sums = call.output(out, like, {axis == 1 ? matrix.rows() : matrix.cols()},
                              sums_type(matrix.dtype()));
    const auto workspace = call.workspace(
        like, [](const auto&... operands) { return cuda::graph::strength_workspace(operands...); },
        matrix, axis);
    call.run(workspace,
             [&](const auto&... queue) { strength(matrix, axis, sums.view(), queue...); });
    return sums.finish();
  });
}

}  // namespace

template <class Backend>
void bind_graph_rows(py::module_& module) {
  define(module, "edge_score", &edge_score_binding<Backend>, py::arg("a"), py::arg("out"));
  define(module, "strength", &strength_binding<Backend>, py::arg("a"), py::arg("axis"),
         py::arg("out"));
  define(module, "row_sum", &row_sum_binding<Backend>, py::arg("a"), py::arg("power"),
         py::arg("out"));
  define(module, "row_max", &row_max_binding<Backend>, py::arg("a"), py::arg("out"));
  define(module, "scale_rows_cols", &scale_binding<Backend>, py::arg("a"), py::arg("rows"),
         py::arg("cols"), py::arg("out"));
}

template void bind_graph_rows<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
