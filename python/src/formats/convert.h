#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "base/call.h"

namespace gossamer::python {

/// The conversions of CSR, BSR, NM and GroupQuant that GPUs have too.
template <class Backend>
void bind_conversions(py::module_& module);

inline const Name kConvertIndices{"convert_indices", "CSR"};

/// A copy of an index array of another type.
template <class Backend>
py::object convert_indices_binding(Call<Backend>& call, py::handle array, const std::string& dtype);

}  // namespace gossamer::python
