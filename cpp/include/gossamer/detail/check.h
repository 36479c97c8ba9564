#pragma once

// What the backends ask of the arguments of an operation. A program that calls the operations needs
// none of this. The checks of one family's operations are in <family>_checks.h.

#include <cstdint>
#include <initializer_list>
#include <string>

#include "gossamer/error.h"
#include "gossamer/tensor.h"

namespace gossamer::detail {

/// An argument and its name, for messages.
struct Argument {
  const char* name;
  const TensorView& view;
};

/// A number in a message.
inline std::string text(std::int64_t n) { return std::to_string(n); }

/// Checks shared by the operations. Each throws with "op: argument …, expected …".
class Checker {
 public:
  /// `backend` is the kind of device whose kernels will run.
  explicit Checker(const char* op, DeviceType backend = DeviceType::cpu) noexcept
      : op_(op), backend_(backend) {}

  /// `argument`'s element type is `dtype`, that of `like`.
  void dtype(const Argument& argument, DType dtype, const char* like) const;
  /// `argument` has a floating type.
  void floating(const Argument& argument) const;
  /// `argument` has an index type, int32 or int64.
  void index(const Argument& argument) const;
  /// `argument` is a mask: bool or uint8.
  void mask(const Argument& argument) const;
  /// `argument` is on `device`, that of `like`, and the backend has kernels for it.
  void device(const Argument& argument, Device device, const char* like) const;
  /// Axis `axis` of `argument` has `expected` elements: `what` says where that number comes from.
  void extent(const Argument& argument, int axis, std::int64_t expected, const char* what) const;
  /// Rank is one of `ranks`.
  void rank(const Argument& argument, std::initializer_list<int> ranks) const;
  /// The last axis is contiguous, other strides are not negative.
  void layout(const Argument& argument) const;
  /// Elements lie one after the other in row-major order.
  void contiguous(const Argument& argument) const;
  /// `out` may be written: not read-only, no element twice, no memory shared with `inputs`.
  void writable(const Argument& out, std::initializer_list<Argument> inputs) const;
  /// `argument` has the shape of `like`.
  void same_shape(const Argument& argument, const Argument& like) const;
  /// `argument` has exactly this shape.
  void shape(const Argument& argument, std::initializer_list<std::int64_t> expected) const;
  /// `argument` [..., width], whose layout has been checked, as a matrix [rows, width]: its leading
  /// axes must form one.
  [[nodiscard]] TensorView rows(const Argument& argument) const;
  /// The same, but that on the CPU an array whose leading axes do not form one comes back as it is,
  /// with more than two axes.
  [[nodiscard]] TensorView tokens(const Argument& argument) const;
  /// `workspace` is on `device`, contiguous, aligned to 16 bytes and of at least `bytes` bytes.
  void workspace(const TensorView& workspace, Device device, std::int64_t bytes) const;

  [[noreturn]] void value_error(const std::string& text) const;
  [[noreturn]] void type_error(const std::string& text) const;
  [[noreturn]] void not_implemented(const std::string& text) const;

 private:
  const char* op_;
  DeviceType backend_;
};

}  // namespace gossamer::detail
