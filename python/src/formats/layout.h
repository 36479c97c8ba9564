#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "base/call.h"
#include "formats/handle.h"
#include "gossamer/error.h"
#include "gossamer/layout.h"

namespace gossamer::python {

/// A block layout together with its arrays.
struct LayoutHandle {
  template <class Visit>
  int objects(Visit&& visit) const {
    for (const Component* part :
         {&indptr, &indices, kinds ? &*kinds : nullptr, bits ? &*bits : nullptr}) {
      if (part == nullptr) continue;
      if (const int result = visit(part->array)) return result;
      if (const int result = visit(part->import.object())) return result;
    }
    return 0;
  }

  Component indptr, indices;
  std::optional<Component> kinds, bits;
  BlockLayout layout;
};

/// What the layout operand of a call holds. It decides the device, as arrays do.
template <class Backend>
const LayoutHandle& read_layout(Call<Backend>& call, py::handle object) {
  if (!py::isinstance<LayoutHandle>(object)) {
    // The arrays of a traced function say so themselves.
    if (py::hasattr(object, "refuse")) object.attr("refuse")(call.op(), "layout");
    throw TypeError(call.where("layout").text() + " is a " + Py_TYPE(object.ptr())->tp_name +
                    ", expected a BlockLayout");
  }
  const auto& held = py::cast<const LayoutHandle&>(object);
  call.settle("layout", held.layout.device());
  return held;
}

void bind_layout(py::module_& module);

}  // namespace gossamer::python
