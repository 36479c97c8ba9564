#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "gossamer/csr.h"
#include "import.h"

namespace gossamer::python {

/// The structure arrays of a CSR matrix, shared by the matrices that differ in values only.
struct CsrStructure {
  py::object indptr, indices;
  Import indptr_import, indices_import;
};

/// A Csr together with the caller's arrays that it looks into.
struct CsrHandle {
  std::shared_ptr<const CsrStructure> structure;
  py::object values;
  Import values_import;
  Csr csr;
};

void bind_formats(py::module_& module);

}  // namespace gossamer::python
