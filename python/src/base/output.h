#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>

#include "base/import.h"
#include "gossamer/tensor.h"

namespace gossamer::python {

/// The shape of a result.
struct Shape {
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> list) {
    for (const std::int64_t extent : list) push_back(extent);
  }
  void push_back(std::int64_t extent) { extents[static_cast<std::size_t>(rank++)] = extent; }
  /// Adds the axes [first, last) of a view.
  void append(const TensorView& view, int first, int last) {
    for (int d = first; d < last; ++d) push_back(view.shape[static_cast<std::size_t>(d)]);
  }

  std::array<std::int64_t, kMaxRank> extents = {};
  int rank = 0;

  friend bool operator==(const Shape&, const Shape&) = default;
};

inline Shape shape_of(const TensorView& view) {
  Shape shape;
  shape.append(view, 0, view.rank);
  return shape;
}

/// Where an operation writes: the caller's `out`, or a new array of the framework of `like`.
class Output {
 public:
  /// A new array, called `argument` in messages.
  Output(Where where, py::handle like, const Shape& shape, DType dtype);
  /// The caller's, exported in the order of `stream`. It is not checked against shape and type
  /// here: the operations do that.
  Output(Where where, py::handle out, MaybeStream stream);

  [[nodiscard]] const TensorView& view() const noexcept { return import_->view(); }

  /// What the caller gets. Call it once, when the array has been written.
  [[nodiscard]] py::object finish();

 private:
  py::object like_;  // null where `array_` is what the caller gets
  py::object array_;
  std::optional<Import> import_;
};

}  // namespace gossamer::python
