#include "regrow/regrow.h"

#include "base/call.h"
#include "formats/handle.h"

namespace gossamer::python {
namespace {

/// Does a matrix made by with_values look into the same index arrays?
bool shares_structure(py::handle a) {
  const auto& structure =
      as<Bsr>(a) != nullptr ? as<Bsr>(a)->structure : py::cast<const CsrHandle&>(a).structure;
  return structure.use_count() > 1;
}

}  // namespace

void bind_regrow(py::module_& module) {
  module.def("shares_structure", &shares_structure, py::arg("a"));
}

}  // namespace gossamer::python
