#include "formats/nm.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>

#include "base/call.h"
#include "base/collected.h"
#include "formats/compressed.h"
#include "formats/handle.h"
#include "gossamer/nm.h"

namespace gossamer::python {
namespace {

NmHandle make_nm(py::object values, py::object indices, std::int64_t rows, std::int64_t cols,
                 std::int64_t n, std::int64_t m, int axis, std::optional<bool> check) {
  const Nm::Check level = check.value_or(true) ? Nm::Check::structure : Nm::Check::trust;
  Component v(std::move(values), {"NM", "values"});
  Component i(std::move(indices), {"NM", "indices"});
  const Nm matrix = [&] {
    const GilRelease unlocked;
    return Nm(v.view(), i.view(), rows, cols, n, m, axis, level);
  }();
  if (matrix.device().type != DeviceType::cpu && check.value_or(false)) {
    // The CPU looks at a copy.
    const Import copy = host_copy({"NM", "indices"}, i);
    TensorView unread = v.view();
    unread.device = {};
    static_cast<void>(Nm(unread, copy.view(), rows, cols, n, m, axis));
  }
  return {std::move(v), std::move(i), matrix};
}

}  // namespace

void bind_nm(py::module_& module) {
  using H = NmHandle;
  py::class_<H>(module, "Nm", py::is_final(), collected<H>())
      .def(py::init([](py::object values, py::object indices, std::int64_t rows, std::int64_t cols,
                       py::handle n, py::handle m, py::handle axis, py::handle check) {
             return make_nm(std::move(values), std::move(indices), rows, cols,
                            read_integer({"NM", "n"}, n), read_integer({"NM", "m"}, m),
                            Parameter<int>::read({"NM", "axis"}, axis),
                            read_parameter<std::optional<bool>>({"NM", "check"}, check));
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
}

}  // namespace gossamer::python
