#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "gossamer/error.h"
#include "gossamer/tensor.h"

namespace gossamer {

/// An argument and its name, for messages.
struct Argument {
  const char* name;
  const TensorView& view;
};

/// Checks shared by the operations. Each throws with "op: argument …, expected …".
class Checker {
 public:
  explicit Checker(const char* op) noexcept : op_(op) {}

  /// `argument`'s element type is `dtype`, that of `like`.
  void dtype(const Argument& argument, DType dtype, const char* like) const;
  /// `argument` is on `device`, that of `like`, and this library has kernels for it.
  void device(const Argument& argument, Device device, const char* like) const;
  /// Axis `axis` of `argument` has `expected` elements: `what` says where that number comes from.
  void extent(const Argument& argument, int axis, std::int64_t expected, const char* what) const;
  /// Rank is one of `ranks`.
  void rank(const Argument& argument, std::initializer_list<int> ranks) const;
  /// The last axis is contiguous, other strides are not negative.
  void layout(const Argument& argument) const;
  /// `out` may be written: not read-only, no element twice, no memory shared with `inputs`.
  void writable(const Argument& out, std::initializer_list<Argument> inputs) const;
  /// `argument` has exactly this shape.
  void shape(const Argument& argument, std::initializer_list<std::int64_t> expected) const;

  [[noreturn]] void value_error(const std::string& text) const;
  [[noreturn]] void type_error(const std::string& text) const;

 private:
  const char* op_;
};

}  // namespace gossamer
