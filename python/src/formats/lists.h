#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>

#include "base/call.h"
#include "gossamer/error.h"
#include "gossamer/tensor.h"

namespace gossamer::python {

/// A view with a leading axis of one, where it has one axis less than `rank`. Throws where it has
/// another number.
inline TensorView of_rank(Where where, TensorView view, int rank) {
  if (view.rank == rank) return view;
  if (view.rank != rank - 1) {
    throw ValueError(where.text() + ".ndim is " + std::to_string(view.rank) + ", expected " +
                     std::to_string(rank - 1) + " or " + std::to_string(rank));
  }
  for (auto d = static_cast<std::size_t>(view.rank); d > 0; --d) {
    view.shape[d] = view.shape[d - 1];
    view.strides[d] = view.strides[d - 1];
  }
  view.shape[0] = 1;
  view.strides[0] = 0;
  ++view.rank;
  return view;
}

/// What builds layouts, transposes them and writes them as masks.
template <class Backend>
void bind_layout_lists(pybind11::module_& module);

}  // namespace gossamer::python
