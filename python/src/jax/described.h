#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "jax/xla_ffi.h"

namespace gossamer::python::ffi {

/// A call of a handler that Python describes: operands and results by pairs of an element type's
/// name and a shape, attributes by a dict.
class Described {
 public:
  Described(const char* op, const pybind11::sequence& operands, const pybind11::sequence& results,
            const pybind11::dict& attributes);
  [[nodiscard]] const xla::CallFrame& frame() const noexcept { return frame_; }

 private:
  /// An array, at an address of its own that is not read.
  void add(const char* op, const pybind11::handle& array, std::vector<void*>& list);

  struct Array {
    std::vector<std::int64_t> shape;
    xla::Buffer buffer;
  };
  union Number {
    bool flag;
    std::int64_t integer;
    double real;
  };
  struct Attribute {
    std::string name;
    xla::ByteSpan span;
    Number number;
    xla::Scalar scalar;
  };
  std::deque<Array> arrays_;
  std::deque<Attribute> attributes_;
  std::vector<void*> operands_, results_, scalars_;
  std::vector<xla::ByteSpan*> names_;
  std::vector<xla::AttrType> types_;
  xla::CallFrame frame_;
};

}  // namespace gossamer::python::ffi
