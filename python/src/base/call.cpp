#include "base/call.h"

#include "base/direct.h"
#include "base/tensor.h"

namespace gossamer::python {

void WriteNotes::add(py::handle array) {
  if (is_ndarray(array) || is_tensor(array)) return;
  arrays_.push_back(py::reinterpret_borrow<py::object>(array));
}

void WriteNotes::send() const {
  for (const py::object& array : arrays_) {
    if (const Direct* direct = Direct::of(array)) {
      direct->written(array);
    } else {
      hooks().written(array);
    }
  }
}

}  // namespace gossamer::python
