#include "formats/packed.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <utility>

#include "base/call.h"
#include "base/gil.h"
#include "formats/handle.h"
#include "gossamer/packed.h"

namespace gossamer::python {
namespace {

py::object pack_binding(Call<Cpu>& call, py::handle a, const std::optional<std::int64_t>& n) {
  return with_matrix<Csr>(call, "a", a, [&](const Csr& matrix) {
    return py::cast(call.run([&] { return pack(matrix, {.n = n}); }));
  });
}

}  // namespace

void bind_packed(py::module_& module) {
  py::class_<Packed>(module, "Packed", py::is_final())
      .def_property_readonly("shape", [](const Packed& a) { return std::pair(a.rows(), a.cols()); })
      .def_property_readonly("nnz", &Packed::nnz)
      .def_property_readonly("dtype", [](const Packed& a) { return name_of(a.dtype()); })
      .def_property_readonly("device", [](const Packed& a) { return to_string(a.device()); })
      // Both wait for a product that is packing the transpose.
      .def_property_readonly("nbytes",
                             [](const Packed& a) {
                               const GilRelease unlocked;
                               return a.nbytes();
                             })
      .def_property_readonly("layouts", [](const Packed& a) {
        const GilRelease unlocked;
        return a.layouts();
      });
  define(module, "pack", &pack_binding, py::arg("a"), py::arg("n"));
}

}  // namespace gossamer::python
