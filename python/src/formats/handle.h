#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "base/import.h"
#include "gossamer/bsr.h"
#include "gossamer/csr.h"

namespace gossamer::python {

/// The index arrays of a compressed matrix, shared by the matrices that differ in values only.
struct Structure {
  py::object indptr, indices;
  Import indptr_import, indices_import;
};

/// A matrix together with the caller's arrays that it looks into; a BSR's values are its blocks.
template <class Format>
struct Handle {
  std::shared_ptr<const Structure> structure;
  py::object values;
  Import values_import;
  Format matrix;
};
using CsrHandle = Handle<Csr>;
using BsrHandle = Handle<Bsr>;

void bind_formats(py::module_& module);

}  // namespace gossamer::python
