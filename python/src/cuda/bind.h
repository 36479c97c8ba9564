#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// The operations under the names and with the arguments that they have in _core.
void bind_cuda_ops(pybind11::module_& module);

/// csr_from_dense, csr_to_dense, csr_transpose, the same of BSR, convert_indices, to_host: what
/// _core's formats ask.
void bind_cuda_formats(pybind11::module_& module);

}  // namespace gossamer::python
