#include "ops.h"

#include <optional>
#include <string>
#include <string_view>

#include "formats.h"
#include "gossamer/error.h"
#include "gossamer/ops.h"
#include "output.h"

namespace gossamer::python {
namespace {

const Csr& matrix(const CsrHandle& a) { return a.matrix; }
const Packed& matrix(const Packed& a) { return a; }

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
  epilogue.lo = py::float_(parts[1]);
  epilogue.hi = py::float_(parts[2]);
}

void require_out(const char* op, bool accumulate, py::handle out) {
  if (accumulate && out.is_none()) {
    throw ValueError(std::string(op) + ": accumulate is True, expected out to add to");
  }
}

template <class Format>
py::object spmm_binding(const Format& a, py::handle b, bool transpose_a, py::handle bias,
                        py::handle activation, bool accumulate, py::handle out) {
  constexpr const char* op = "spmm";
  require_out(op, accumulate, out);
  const Import b_import = Import::to_read(b, {op, "b"});
  const std::optional<Import> bias_import = read_optional(bias, {op, "bias"});
  Epilogue epilogue{.bias = view_of(bias_import), .accumulate = accumulate};
  read_activation(op, activation, epilogue);
  const TensorView& view = b_import.view();
  Shape shape{transpose_a ? matrix(a).cols() : matrix(a).rows()};
  for (int d = 1; d < view.rank; ++d) shape.push_back(view.shape[static_cast<std::size_t>(d)]);
  Output result(op, out, b, shape, view.dtype);
  {
    const py::gil_scoped_release unlocked;
    spmm(matrix(a), view, result.view(), transpose_a, epilogue);
  }
  return result.finish();
}

template <class Format>
py::object linear_binding(py::handle x, const Format& w, py::handle bias, py::handle activation,
                          bool accumulate, py::handle out) {
  constexpr const char* op = "linear";
  require_out(op, accumulate, out);
  const Import x_import = Import::to_read(x, {op, "x"});
  const std::optional<Import> bias_import = read_optional(bias, {op, "bias"});
  Epilogue epilogue{.bias = view_of(bias_import), .accumulate = accumulate};
  read_activation(op, activation, epilogue);
  const TensorView& view = x_import.view();
  Shape shape;
  for (int d = 0; d + 1 < view.rank; ++d) shape.push_back(view.shape[static_cast<std::size_t>(d)]);
  shape.push_back(matrix(w).rows());
  Output result(op, out, x, shape, view.dtype);
  {
    const py::gil_scoped_release unlocked;
    linear(view, matrix(w), result.view(), epilogue);
  }
  return result.finish();
}

py::object sddmm_binding(py::handle a, py::handle b, const CsrHandle& pattern, bool accumulate,
                         py::handle out) {
  constexpr const char* op = "sddmm";
  require_out(op, accumulate, out);
  const Import a_import = Import::to_read(a, {op, "a"});
  const Import b_import = Import::to_read(b, {op, "b"});
  Output result(op, out, a, {pattern.matrix.nnz()}, a_import.view().dtype);
  {
    const py::gil_scoped_release unlocked;
    sddmm(a_import.view(), b_import.view(), pattern.matrix, result.view(), accumulate);
  }
  return result.finish();
}

template <class Format>
const Format* as(py::handle object) {
  // Overloads of one name would cost a failed conversion for every format but the first: 1 µs.
  static PyTypeObject* const type =
      reinterpret_cast<PyTypeObject*>(py::type::of<Format>().release().ptr());
  return Py_TYPE(object.ptr()) == type ? py::cast<const Format*>(object) : nullptr;
}

/// body(format) for what a sparse operand is.
template <class F>
py::object with_format(const char* op, const char* argument, py::handle object, F&& body) {
  if (const auto* csr = as<CsrHandle>(object)) return body(*csr);
  if (const auto* packed = as<Packed>(object)) return body(*packed);
  throw TypeError(std::string(op) + ": " + argument + " is a " + Py_TYPE(object.ptr())->tp_name +
                  ", expected a sparse matrix");
}

}  // namespace

void bind_ops(py::module_& module) {
  module.def(
      "spmm",
      [](py::handle a, py::handle b, bool transpose_a, py::handle bias, py::handle activation,
         bool accumulate, py::handle out) {
        return with_format("spmm", "a", a, [&](const auto& format) {
          return spmm_binding(format, b, transpose_a, bias, activation, accumulate, out);
        });
      },
      py::arg("a"), py::arg("b"), py::arg("transpose_a"), py::arg("bias"), py::arg("activation"),
      py::arg("accumulate"), py::arg("out"));
  module.def(
      "linear",
      [](py::handle x, py::handle w, py::handle bias, py::handle activation, bool accumulate,
         py::handle out) {
        return with_format("linear", "w", w, [&](const auto& format) {
          return linear_binding(x, format, bias, activation, accumulate, out);
        });
      },
      py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("activation"), py::arg("accumulate"),
      py::arg("out"));
  module.def("sddmm", &sddmm_binding, py::arg("a"), py::arg("b"), py::arg("pattern"),
             py::arg("accumulate"), py::arg("out"));
}

}  // namespace gossamer::python
