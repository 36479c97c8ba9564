#include "formats/nm.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>

#include "base/call.h"
#include "base/collected.h"
#include "formats/handle.h"
#include "gossamer/nm.h"

namespace gossamer::python {
namespace {

NmHandle make_nm(py::object values, py::object indices, std::int64_t rows, std::int64_t cols,
                 std::int64_t n, std::int64_t m, int axis, Nm::Check check) {
  Component v(std::move(values), {"NM", "values"});
  Component i(std::move(indices), {"NM", "indices"});
  const Nm matrix = [&] {
    const GilRelease unlocked;
    return Nm(v.view(), i.view(), rows, cols, n, m, axis, check);
  }();
  return {std::move(v), std::move(i), matrix};
}

py::object nm_from_dense(Call<Cpu>& call, py::handle w, std::int64_t n, std::int64_t m, int axis,
                         py::handle mask) {
  const Import dense = call.read(w, "w");
  const std::optional<Import> kept = call.read_optional(mask, "mask");
  const TensorView& view = dense.view();
  if (view.rank != 2) {
    throw ValueError(call.where("w").text() + ".ndim is " + std::to_string(view.rank) +
                     ", expected 2");
  }
  const std::int64_t rows = view.shape[0], cols = view.shape[1];
  const NmShape shape = nm_shape(rows, cols, n, m, axis);
  Output values = call.create("values", w, {shape.lines, shape.slots}, view.dtype);
  Output indices = call.create("indices", w, {shape.lines, shape.index_bytes}, DType::u8);
  call.run([&] { nm_pack(view, view_of(kept), n, m, axis, values.view(), indices.view()); });
  return py::cast(
      make_nm(values.finish(), indices.finish(), rows, cols, n, m, axis, Nm::Check::trust));
}

py::object nm_to_dense_binding(Call<Cpu>& call, py::handle a, py::handle out) {
  return with_held<Nm>(call, "a", a, [&](const NmHandle& held) {
    const Nm& matrix = held.matrix;
    Output dense =
        call.output(out, held.values.array, {matrix.rows(), matrix.cols()}, matrix.dtype());
    call.run([&] { nm_to_dense(matrix, dense.view()); });
    return dense.finish();
  });
}

}  // namespace

void bind_nm(py::module_& module) {
  using H = NmHandle;
  py::class_<H>(module, "Nm", py::is_final(), collected<H>())
      .def(py::init([](py::object values, py::object indices, std::int64_t rows, std::int64_t cols,
                       py::handle n, py::handle m, py::handle axis, py::handle check) {
             return make_nm(
                 std::move(values), std::move(indices), rows, cols, read_integer({"NM", "n"}, n),
                 read_integer({"NM", "m"}, m), Parameter<int>::read({"NM", "axis"}, axis),
                 read_flag({"NM", "check"}, check) ? Nm::Check::structure : Nm::Check::trust);
           }),
           py::arg("values"), py::arg("indices"), py::arg("rows"), py::arg("cols"), py::arg("n"),
           py::arg("m"), py::arg("axis"), py::arg("check"))
      .def(
          "with_values",
          [](const H& self, py::object values) {
            Component component(std::move(values), {"with_values", "values"});
            const Nm matrix = self.matrix.with_values(component.view());
            return H{std::move(component), self.indices, matrix};
          },
          py::arg("values"))
      .def("transpose", [](const H& a) { return H{a.values, a.indices, a.matrix.transposed()}; })
      .def_property_readonly("values", [](const H& a) { return a.values.array; })
      .def_property_readonly("indices", [](const H& a) { return a.indices.array; })
      .def_property_readonly("shape",
                             [](const H& a) { return std::pair(a.matrix.rows(), a.matrix.cols()); })
      .def_property_readonly("n", [](const H& a) { return a.matrix.n(); })
      .def_property_readonly("m", [](const H& a) { return a.matrix.m(); })
      .def_property_readonly("axis", [](const H& a) { return a.matrix.axis(); })
      .def_property_readonly("nnz", [](const H& a) { return a.matrix.nnz(); })
      .def_property_readonly("nbytes", [](const H& a) { return a.matrix.nbytes(); })
      .def_property_readonly("dtype", [](const H& a) { return name_of(a.matrix.dtype()); })
      .def_property_readonly("device", [](const H& a) { return to_string(a.matrix.device()); });
  define(module, {"nm_from_dense", "NM.from_dense"}, &nm_from_dense, py::arg("w"), py::arg("n"),
         py::arg("m"), py::arg("axis"), py::arg("mask"));
  define(module, {"nm_to_dense", "NM.to_dense"}, &nm_to_dense_binding, py::arg("a"),
         py::arg("out"));
}

}  // namespace gossamer::python
