#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Adds jax_handlers(): the products as handlers for XLA on CPUs, by name, in capsules.
void bind_jax(pybind11::module_& module);

namespace ffi {
/// Adds those of attention to the others.
void add_attention(pybind11::dict& handlers);
}  // namespace ffi

}  // namespace gossamer::python
