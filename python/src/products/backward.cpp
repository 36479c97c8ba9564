#include "products/backward.h"

#include <array>
#include <optional>
#include <string>

#include "base/call.h"
#include "cuda/backend.h"
#include "formats/handle.h"
#include "gossamer/cuda.h"
#include "gossamer/products.h"
#include "products/epilogue.h"

namespace gossamer::python {
namespace {

// Those of CPUs, which take neither workspace nor stream, are found beside them.
using cuda::linear_backward, cuda::spmm_backward;

/// What a backward is asked for: (dense operand, values, bias) in the order of its results.
using Needs = std::array<bool, 3>;
using Names = std::array<const char*, 3>;

/// Three objects.
std::array<py::object, 3> read_three(Where where, py::handle given, const std::string& expected) {
  const bool sequence = PyTuple_Check(given.ptr()) != 0 || PyList_Check(given.ptr()) != 0;
  if (!sequence || PySequence_Size(given.ptr()) != 3) {
    const std::string got = sequence ? std::string("a ") + Py_TYPE(given.ptr())->tp_name + " of " +
                                           std::to_string(PySequence_Size(given.ptr()))
                                     : std::string(py::repr(given));
    throw ValueError(where.text() + " is " + got + ", expected " + expected);
  }
  const auto items = py::reinterpret_borrow<py::sequence>(given);
  return {items[0], items[1], items[2]};
}

struct Request {
  Needs needs = {};
  std::array<py::object, 3> out = {py::none(), py::none(), py::none()};

  Request(const char* op, const Names& names, py::handle wanted, bool accumulate,
          py::handle outputs) {
    const std::array<py::object, 3> flags =
        read_three({op, "needs"}, wanted, "three of True and False");
    for (std::size_t i = 0; i < 3; ++i) needs[i] = read_flag({op, "needs"}, flags[i]);
    if (!outputs.is_none()) {
      out = read_three({op, "out"}, outputs,
                       std::string("(") + names[0] + ", " + names[1] + ", " + names[2] + ")");
    }
    for (std::size_t i = 0; i < 3; ++i) {
      if (!needs[i] && !out[i].is_none()) {
        throw ValueError(std::string(op) + ": " + names[i] +
                         " is an array, expected None where needs has False");
      }
      if (needs[i] && accumulate && out[i].is_none()) {
        throw ValueError(std::string(op) + ": accumulate is True, expected " + names[i] +
                         " to add to");
      }
    }
  }
};

/// The results of a call: each the caller's array, a new one, or nothing.
class Results {
 public:
  template <class Backend>
  Results(Call<Backend>& call, const Names& names, const Request& request, py::handle like,
          const std::array<Shape, 3>& shapes, DType dtype) {
    for (std::size_t i = 0; i < 3; ++i) {
      if (!request.needs[i]) continue;
      outputs_[i].emplace(call.output(request.out[i], like, shapes[i], dtype, names[i]));
    }
  }

  [[nodiscard]] std::optional<TensorView> view(std::size_t i) const {
    return outputs_[i] ? std::optional(outputs_[i]->view()) : std::nullopt;
  }

  py::tuple finish() {
    py::tuple result(3);
    for (std::size_t i = 0; i < 3; ++i) {
      result[i] = outputs_[i] ? outputs_[i]->finish() : py::none();
    }
    return result;
  }

 private:
  std::array<std::optional<Output>, 3> outputs_;
};

constexpr Names kOfLinear = {"dx", "dvalues", "dbias"};

template <class Backend>
py::object bind_linear_backward(Call<Backend>& call, py::handle dy, py::handle x, py::handle w,
                                py::handle needs, bool accumulate, py::handle out) {
  return with_matrix<Csr, Bsr, Nm>(call, "w", w, [&](const auto& matrix) {
    const Request request(call.op(), kOfLinear, needs, accumulate, out);
    const Import dy_import = call.read(dy, "dy");
    const std::optional<Import> x_import = call.read_optional(x, "x");
    const TensorView& view = dy_import.view();
    Shape dense;
    dense.append(view, 0, view.rank - 1);
    dense.push_back(matrix.cols());
    Results results(call, kOfLinear, request, dy, {dense, values_shape(matrix), {matrix.rows()}},
                    view.dtype);
    const Gradients gradients{.dense = results.view(0),
                              .values = results.view(1),
                              .bias = results.view(2),
                              .accumulate = accumulate};
    const auto workspace = call.workspace(
        dy, [](const auto&... operands) { return cuda::linear_backward_workspace(operands...); },
        view, matrix, gradients);
    call.run(workspace, [&](const auto&... queue) {
      linear_backward(view, view_of(x_import), matrix, gradients, queue...);
    });
    return results.finish();
  });
}

constexpr Names kOfSpmm = {"dvalues", "db", "dbias"};

template <class Backend>
py::object bind_spmm_backward(Call<Backend>& call, py::handle dy, py::handle a, py::handle b,
                              bool transpose_a, py::handle needs, bool accumulate, py::handle out) {
  return with_matrix<Csr, Bsr, Nm>(call, "a", a, [&](const auto& matrix) {
    const Request request(call.op(), kOfSpmm, needs, accumulate, out);
    const Import dy_import = call.read(dy, "dy");
    const std::optional<Import> b_import = call.read_optional(b, "b");
    const TensorView& view = dy_import.view();
    Results results(call, kOfSpmm, request, dy,
                    {values_shape(matrix),
                     spmm_shape(matrix, view, !transpose_a),
                     {transpose_a ? matrix.cols() : matrix.rows()}},
                    view.dtype);
    const Gradients gradients{.dense = results.view(1),
                              .values = results.view(0),
                              .bias = results.view(2),
                              .accumulate = accumulate};
    const auto workspace = call.workspace(
        dy, [](const auto&... operands) { return cuda::spmm_backward_workspace(operands...); },
        view, matrix, gradients, transpose_a);
    call.run(workspace, [&](const auto&... queue) {
      spmm_backward(view, matrix, view_of(b_import), gradients, transpose_a, queue...);
    });
    return results.finish();
  });
}

}  // namespace

template <class Backend>
void bind_backward(py::module_& module) {
  define(module, "linear_backward", &bind_linear_backward<Backend>, py::arg("dy"), py::arg("x"),
         py::arg("w"), py::arg("needs"), py::arg("accumulate"), py::arg("out"));
  define(module, "spmm_backward", &bind_spmm_backward<Backend>, py::arg("dy"), py::arg("a"),
         py::arg("b"), py::arg("transpose_a"), py::arg("needs"), py::arg("accumulate"),
         py::arg("out"));
}

template void bind_backward<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
