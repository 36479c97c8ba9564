#include "products/epilogue.h"

#include <string>
#include <string_view>

#include "base/parameters.h"
#include "gossamer/error.h"

namespace gossamer::python {
namespace {

[[noreturn]] void bad_activation(const char* op, py::handle got) {
  throw ValueError(std::string(op) + ": activation is " + std::string(py::repr(got)) +
                   ", expected None, 'relu', 'relu6', 'gelu', 'silu' or ('clamp', lo, hi)");
}

std::string_view text_of(py::handle text) {
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (data == nullptr) throw py::error_already_set();
  return {data, static_cast<std::size_t>(size)};
}

}  // namespace

void read_activation(const char* op, py::handle activation, Epilogue& epilogue) {
  if (activation.is_none()) return;
  if (py::isinstance<py::str>(activation)) {
    const std::string_view name = text_of(activation);
    if (name == "relu") {
      epilogue.activation = Activation::relu;
    } else if (name == "relu6") {
      epilogue.activation = Activation::relu6;
    } else if (name == "gelu") {
      epilogue.activation = Activation::gelu;
    } else if (name == "silu") {
      epilogue.activation = Activation::silu;
    } else {
      bad_activation(op, activation);
    }
    return;
  }
  if (!py::isinstance<py::tuple>(activation)) bad_activation(op, activation);
  const auto parts = py::reinterpret_borrow<py::tuple>(activation);
  if (parts.size() != 3 || !py::isinstance<py::str>(parts[0]) || text_of(parts[0]) != "clamp") {
    bad_activation(op, activation);
  }
  epilogue.activation = Activation::clamp;
  epilogue.lo = read_number({op, "activation[1]"}, parts[1]);
  epilogue.hi = read_number({op, "activation[2]"}, parts[2]);
}

void require_out(const char* op, bool accumulate, py::handle out) {
  if (accumulate && out.is_none()) {
    throw ValueError(std::string(op) + ": accumulate is True, expected out to add to");
  }
}

}  // namespace gossamer::python
