#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "base/call.h"

namespace gossamer::python {

template <class Backend>
py::object sddmm_batched(Call<Backend>& call, py::handle a, py::handle b, py::handle pattern,
                         double scale, const std::optional<std::string>& dtype, bool accumulate,
                         py::handle out);
template <class Backend>
py::object spmm_batched(Call<Backend>& call, py::handle a, py::handle b, bool transpose_a,
                        bool stacked, py::handle bias, py::handle activation, bool accumulate,
                        py::handle out);

/// sddmm and spmm of several sets of operands on one pattern.
template <class Backend>
void bind_batched_products(pybind11::module_& module);

}  // namespace gossamer::python
