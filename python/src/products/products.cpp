#include "products/products.h"

#include <optional>
#include <string>

#include "base/arguments.h"
#include "base/gil.h"
#include "base/output.h"
#include "formats/handle.h"
#include "gossamer/detail/check.h"
#include "gossamer/error.h"
#include "gossamer/products.h"

namespace gossamer::python {
namespace {

template <class Format>
const Format& matrix(const Handle<Format>& a) {
  return a.matrix;
}
const Packed& matrix(const Packed& a) { return a; }

/// The function of the extension for GPUs that does `op`, where the sparse operand is on one.
template <class Format>
std::optional<py::object> elsewhere(const char* op, const char* argument, const Format& a) {
  const Device device = matrix(a).device();
  if (device.type == DeviceType::cpu) [[likely]] {
    return std::nullopt;
  }
  return on_cuda({op, argument}, device, op);
}

/// The Python object of a handle.
template <class Format>
py::object self(const Format& a) {
  return py::cast(&a);
}

template <class Format>
py::object spmm_binding(const Format& a, py::handle b, bool transpose_a, py::handle bias,
                        py::handle activation, bool accumulate, py::handle out) {
  constexpr const char* op = "spmm";
  if (const auto cuda = elsewhere(op, "a", a)) {
    return (*cuda)(self(a), b, transpose_a, bias, activation, accumulate, out);
  }
  require_out(op, accumulate, out);
  const Import b_import = Import::to_read(b, {op, "b"});
  const std::optional<Import> bias_import = read_optional(bias, {op, "bias"});
  Epilogue epilogue{.bias = view_of(bias_import), .accumulate = accumulate};
  read_activation(op, activation, epilogue);
  const TensorView& view = b_import.view();
  detail::Checker(op).device({"b", view}, matrix(a).device(), "a");
  Output result(op, out, b, spmm_shape(matrix(a), view, transpose_a), view.dtype);
  {
    const GilRelease unlocked;
    spmm(matrix(a), view, result.view(), transpose_a, epilogue);
  }
  return result.finish();
}

template <class Format>
py::object linear_binding(py::handle x, const Format& w, py::handle bias, py::handle activation,
                          bool accumulate, py::handle out) {
  constexpr const char* op = "linear";
  if (const auto cuda = elsewhere(op, "w", w)) {
    return (*cuda)(x, self(w), bias, activation, accumulate, out);
  }
  require_out(op, accumulate, out);
  const Import x_import = Import::to_read(x, {op, "x"});
  const std::optional<Import> bias_import = read_optional(bias, {op, "bias"});
  Epilogue epilogue{.bias = view_of(bias_import), .accumulate = accumulate};
  read_activation(op, activation, epilogue);
  const TensorView& view = x_import.view();
  detail::Checker(op).device({"x", view}, matrix(w).device(), "w");
  Output result(op, out, x, linear_shape(view, matrix(w)), view.dtype);
  {
    const GilRelease unlocked;
    linear(view, matrix(w), result.view(), epilogue);
  }
  return result.finish();
}

template <class Format>
py::object sddmm_binding(py::handle a, py::handle b, const Handle<Format>& pattern, bool accumulate,
                         py::handle out) {
  constexpr const char* op = "sddmm";
  if (const auto cuda = elsewhere(op, "pattern", pattern)) {
    return (*cuda)(a, b, self(pattern), accumulate, out);
  }
  require_out(op, accumulate, out);
  const Import a_import = Import::to_read(a, {op, "a"});
  const Import b_import = Import::to_read(b, {op, "b"});
  detail::Checker(op).device({"a", a_import.view()}, pattern.matrix.device(), "pattern");
  Output result(op, out, a, values_shape(pattern.matrix), a_import.view().dtype);
  {
    const GilRelease unlocked;
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
  if (const auto* bsr = as<BsrHandle>(object)) return body(*bsr);
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
  module.def(
      "sddmm",
      [](py::handle a, py::handle b, py::handle pattern, bool accumulate, py::handle out) {
        if (const auto* bsr = as<BsrHandle>(pattern)) {
          return sddmm_binding(a, b, *bsr, accumulate, out);
        }
        return sddmm_binding(a, b, py::cast<const CsrHandle&>(pattern), accumulate, out);
      },
      py::arg("a"), py::arg("b"), py::arg("pattern"), py::arg("accumulate"), py::arg("out"));
}

}  // namespace gossamer::python
