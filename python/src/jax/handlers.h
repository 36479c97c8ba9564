#pragma once

#include <pybind11/pybind11.h>

namespace gossamer::python {

/// Adds jax_handlers(): operations as handlers for XLA on the backend's devices, by name, in
/// capsules; and to the module of CPUs jax_checks(): for each, a function that refuses calls with
/// arrays of wrong shapes or types, on whatever device.
template <class Backend>
void bind_jax(pybind11::module_& module);

namespace ffi {
struct Handlers {
  pybind11::dict calls, checks;
};

/// Adds those of attention, and of layers with sparse activations, to the others.
template <class Backend>
void add_attention(Handlers& handlers);
template <class Backend>
void add_activation(Handlers& handlers);
}  // namespace ffi

}  // namespace gossamer::python
