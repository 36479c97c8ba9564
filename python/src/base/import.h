#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/dlpack.h"
#include "base/hooks.h"
#include "gossamer/tensor.h"

namespace gossamer::python {

/// A stream in the array API's numbering, which is also its handle.
using MaybeStream = std::optional<std::uintptr_t>;

/// A borrowed array with what keeps its memory alive. Made, copied and destroyed under the GIL.
class Import {
 public:
  /// An operand to read. Throws TypeError for what is not an array or has a type that gossamer does
  /// not know, ValueError for an array without data; what the producer raises comes through.
  /// An array on a GPU is exported in the order of `stream`, by default its framework's current
  /// one.
  static Import to_read(py::handle array, Where where, MaybeStream stream = {});

  /// The same for longer than a call: the memory stays when the array gets other memory.
  static Import to_keep(py::handle array, Where where);

  /// The caller's `out`. Throws ValueError where its framework's arrays are immutable.
  static Import to_write(py::handle array, Where where, MaybeStream stream = {});

  /// An array that lies as its framework said.
  static Import from_borrowed(const dlpack::Tensor& tensor, py::handle array, Where where);
  /// An array that was made to lie as `view` says.
  static Import of_new(py::object array, const TensorView& view);

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }

  /// The Python object that keeps the memory, where one does, for garbage collection.
  [[nodiscard]] py::handle object() const noexcept { return object_; }

 private:
  Import() = default;
  static Import from_call(py::handle array, Where where, const Hook& borrow, MaybeStream stream);
  static Import from_lent(const py::object& lent, Where where);
  static Import from_numpy(py::handle array, Where where);
  static Import from_tensor(py::handle tensor);
  static Import from_capsule(py::handle capsule, Where where);
  static Import from_managed(dlpack::ManagedTensorVersioned* managed, Where where);
  void finish(Where where);

  TensorView view_;
  // One of them keeps the memory: a Python object, or what its producer exported.
  py::object object_;
  std::shared_ptr<void> managed_;
};

/// Raises where an array that was kept has no plain values now: its framework records a gradient of
/// what is computed from it.
void require_plain(py::handle array, Where where);

/// gossamer's type for one of NumPy's. Throws TypeError where it has none.
DType numpy_dtype(const py::dtype& dtype, Where where);

/// The view inside, where there is one.
std::optional<TensorView> view_of(const std::optional<Import>& import);

}  // namespace gossamer::python
