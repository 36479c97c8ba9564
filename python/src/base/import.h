#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/hooks.h"
#include "gossamer/tensor.h"

namespace gossamer::python {

/// A stream in the array API's numbering, which is also its handle.
using MaybeStream = std::optional<std::uintptr_t>;

/// A borrowed array with what keeps its memory alive. Made and destroyed under the GIL.
class Import {
 public:
  /// An operand to read. Throws TypeError for what is not an array or has a type that gossamer does
  /// not know, ValueError for an array without data; what the producer raises comes through.
  /// An array on a GPU is exported in the order of `stream`, by default its framework's current
  /// one.
  static Import to_read(py::handle array, Where where, MaybeStream stream = {});

  /// The caller's `out`. Throws ValueError where its framework's arrays are immutable.
  static Import to_write(py::handle array, Where where, MaybeStream stream = {});

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }

 private:
  using Owner = std::unique_ptr<void, void (*)(void*)>;

  Import() = default;
  static Import from_any(py::handle array, Where where, const Hook& borrow, MaybeStream stream);
  static Import from_numpy(py::handle array, Where where);
  static Import from_tensor(py::handle tensor);
  static Import from_capsule(py::handle capsule, Where where);
  void finish(Where where);

  TensorView view_;
  Owner owner_{nullptr, nullptr};
};

/// The view inside, where there is one.
std::optional<TensorView> view_of(const std::optional<Import>& import);

}  // namespace gossamer::python
