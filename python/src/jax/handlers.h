#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Adds jax_handlers(): operations as handlers for XLA on the backend's devices, by name, in
/// capsules.
template <class Backend>
void bind_jax(pybind11::module_& module);

namespace ffi {
/// Adds those of attention, and of layers with sparse activations, to the others.
template <class Backend>
void add_attention(pybind11::dict& handlers);
template <class Backend>
void add_activation(pybind11::dict& handlers);
}  // namespace ffi

}  // namespace gossamer::python
