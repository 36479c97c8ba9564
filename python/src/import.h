#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>

#include "gossamer/tensor.h"

namespace gossamer::python {

namespace py = pybind11;

/// The argument that a message is about: "spmm: b".
struct Where {
  const char* op;
  const char* argument;

  [[nodiscard]] std::string text() const { return std::string(op) + ": " + argument; }
};

/// A borrowed array with what keeps its memory alive. Made and destroyed under the GIL.
class Import {
 public:
  /// An operand to read. Throws TypeError for what is not an array or has a type that gossamer does
  /// not know, ValueError for an array without data; what the producer raises comes through.
  static Import to_read(py::handle array, Where where);

  /// The caller's `out`. Throws ValueError where its framework's arrays are immutable.
  static Import to_write(py::handle array, Where where);

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }

 private:
  using Owner = std::unique_ptr<void, void (*)(void*)>;

  Import() = default;
  static Import from_any(py::handle array, Where where, const py::object& borrow);
  static Import from_numpy(py::handle array, Where where);
  static Import from_tensor(py::handle tensor);
  static Import from_capsule(py::handle capsule, Where where);
  void finish(Where where);

  TensorView view_;
  Owner owner_{nullptr, nullptr};
};

/// Nothing for None.
std::optional<Import> read_optional(py::handle array, Where where);

/// The view inside, where there is one.
std::optional<TensorView> view_of(const std::optional<Import>& import);

}  // namespace gossamer::python
