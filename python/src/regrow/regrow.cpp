#include "regrow/regrow.h"

#include <pybind11/stl.h>

#include <cstdint>

#include "base/call.h"
#include "base/flat.h"
#include "formats/handle.h"
#include "gossamer/regrow.h"

namespace gossamer::python {
using namespace regrow;
namespace {

py::object set_drop_mask(Call<Cpu>& call, py::handle values, std::int64_t n_positive,
                         std::int64_t n_negative, py::handle out) {
  const Flat import(call, "values", values);
  const TensorView& view = import.view();
  Output keep = call.output(out, values, shape_of(view), DType::boolean);
  call.run([&] { set_drop(view, n_positive, n_negative, keep.view()); });
  return keep.finish();
}

/// Does a matrix made by with_values look into the same index arrays?
bool shares_structure(py::handle a) {
  const auto& structure =
      as<Bsr>(a) != nullptr ? as<Bsr>(a)->structure : py::cast<const CsrHandle&>(a).structure;
  return structure.use_count() > 1;
}

}  // namespace

void bind_regrow(py::module_& module) {
  define(module, "set_drop", &set_drop_mask, py::arg("values"), py::arg("n_positive"),
         py::arg("n_negative"), py::arg("out"));
  module.def("shares_structure", &shares_structure, py::arg("a"));
}

}  // namespace gossamer::python
