#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <optional>
#include <vector>

#include "base/dlpack.h"
#include "base/hooks.h"
#include "base/tensor.h"
#include "gossamer/tensor.h"

namespace gossamer::python {

namespace py = pybind11;

/// A type of arrays on the CPU that are read through C functions of their framework, at a fraction
/// of the time that its `__dlpack__` takes. gossamer._interop names the types and what the table
/// does not know.
class Direct {
 public:
  /// The entry of the exact type of `array`, or null.
  static const Direct* of(py::handle array) noexcept;
  /// Adds one for `type`; false where the type has no table of a version that is known here.
  /// Arrays whose attributes `unset` are false and whose methods `refused` return false may be
  /// lent, while the number levels[level], if there is one, is negative: it says how deep forward
  /// mode is nested. detach(array) shares the memory that `array` has now, written(array) notes
  /// that it was written, empty(shape, dtype=…) makes one; `dtypes` are those by gossamer's names.
  /// Where is_traced() is true, constant() is told of writes, and arrays are made elsewhere.
  static bool add(const py::type& type, const py::sequence& unset, const py::sequence& refused,
                  py::dict levels, const py::str& level, py::object detach, py::object written,
                  py::object empty, const py::dict& dtypes, py::object is_traced,
                  py::object constant);

  /// The array as it lies, which lives as long as the object. Nothing where Python has to look at
  /// it: it is on a GPU, has a pending operation or belongs to a graph of gradients.
  [[nodiscard]] std::optional<dlpack::Tensor> borrow(py::handle array) const;
  /// The same for longer: the memory stays even when the object gets other memory. Null for
  /// nothing.
  [[nodiscard]] dlpack::ManagedTensorVersioned* keep(py::handle array) const;

  /// Is no attribute set that keeps an array from being lent, and no tangent possible?
  [[nodiscard]] bool is_free(py::handle array) const;

  /// Tells the framework that `array` was written.
  void written(py::handle array) const;
  /// A new array, and how it lies; null where the framework has no such type, traces, or has other
  /// plans for arrays of which no device is given.
  [[nodiscard]] py::object empty(const py::tuple& shape, DType dtype, dlpack::Tensor& tensor) const;

 private:
  Direct() = default;
  [[nodiscard]] bool is_plain(py::handle array) const;
  [[nodiscard]] bool is_traced() const;
  [[nodiscard]] bool is_forward() const;
  [[nodiscard]] bool lies_at(py::handle array, dlpack::Tensor& tensor) const;

  py::object type_;
  const dlpack::ExchangeApi* api_ = nullptr;
  std::vector<py::object> unset_, refused_;
  py::object levels_, level_;
  Hook detach_, written_, constant_;
  py::object empty_, option_names_, is_traced_;
  std::array<py::object, kDTypeCount> dtypes_;
};

void bind_direct(py::module_& module);

}  // namespace gossamer::python
