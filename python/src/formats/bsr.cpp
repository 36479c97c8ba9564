#include "formats/bsr.h"

#include "formats/compressed.h"

namespace gossamer::python {

void bind_bsr(py::module_& module) {
  bind_compressed<Bsr>(module, "Bsr")
      .def("with_values", &with_values<Bsr>, py::arg("blocks"))
      .def_property_readonly("nblocks", [](const BsrHandle& a) { return a.matrix.nblocks(); })
      .def_property_readonly("block", [](const BsrHandle& a) {
        return std::pair(a.matrix.block_rows(), a.matrix.block_cols());
      });
}

}  // namespace gossamer::python
