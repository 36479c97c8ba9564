#include "activation/activation.h"

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "activation/threshold.h"
#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/activation.h"
#include "gossamer/cuda.h"
#include "products/epilogue.h"

namespace gossamer::python {
namespace {

// The operations of CPUs have the same names and are found by the types of their arguments: those
// of GPUs take a stream more, and some a workspace.
using cuda::delta_linear, cuda::gather_decode, cuda::gather_decode_backward,
    cuda::topk_rows_backward;

/// An array of zeros for a state: NumPy's on a CPU, whatever the framework of the operands; on a
/// GPU, that of `like`.
template <class Backend>
py::object zeros(Call<Backend>& call, const char* argument, py::handle like, const Shape& shape,
                 DType dtype) {
  if constexpr (Backend::kDevice == DeviceType::cpu) {
    std::vector<py::ssize_t> extents(shape.extents.begin(), shape.extents.begin() + shape.rank);
    py::array made = dtype == DType::f64 ? py::array(py::array_t<double>(extents))
                                         : py::array(py::array_t<float>(extents));
    std::memset(made.mutable_data(), 0, static_cast<std::size_t>(made.nbytes()));
    return made;
  } else {
    Output made = call.create(argument, like, shape, dtype);
    call.run([&](cuda::Stream stream) { cuda::fill_zero(made.view(), stream); });
    return made.finish();
  }
}

/// (out, state.last, state.sums, channels that have sent); a state of None is a new one. The number
/// of channels is an int, on a GPU an array without axes.
template <class Backend>
py::tuple bind_delta_linear(Call<Backend>& call, py::handle x, py::handle wt, py::handle last,
                            py::handle sums, py::handle threshold, bool refresh, py::handle bias,
                            py::handle activation, py::handle out) {
  const Import x_import = call.read(x, "x");
  const Import wt_import = call.read(wt, "wt");
  const GivenThreshold limit(call, threshold);
  const std::optional<Import> bias_import = call.read_optional(bias, "bias");
  Epilogue epilogue{.bias = view_of(bias_import)};
  read_activation(call.op(), activation, epilogue);
  const TensorView& view = x_import.view();
  const Shape shape = tokens_shape(view, columns_of(wt_import.view()));
  const DType real = view.dtype == DType::f64 ? DType::f64 : DType::f32;
  const auto own = [&](py::handle given, const char* argument, const Shape& extents) {
    return given.is_none() ? zeros(call, argument, x, extents, real)
                           : py::reinterpret_borrow<py::object>(given);
  };
  const py::object own_last = own(last, "state.last", shape_of(view));
  const py::object own_sums = own(sums, "state.sums", shape);
  const Import last_import = call.write(own_last, "state.last");
  const Import sums_import = call.write(own_sums, "state.sums");
  const DeltaState state{.last = last_import.view(), .sums = sums_import.view()};
  Output result = call.output(out, x, shape, view.dtype);
  if constexpr (Backend::kDevice == DeviceType::cpu) {
    const std::int64_t sent = call.run([&] {
      return delta_linear(view, wt_import.view(), state, limit.get(), result.view(), refresh,
                          epilogue);
    });
    return py::make_tuple(result.finish(), own_last, own_sums, sent);
  } else {
    Output sent = call.create("state.sent", x, {}, DType::i32);
    const auto workspace = call.workspace(x, cuda::delta_linear_workspace, view, wt_import.view());
    call.run(workspace, [&](const auto&... queue) {
      delta_linear(view, wt_import.view(), state, limit.get(), result.view(), sent.view(), refresh,
                   epilogue, queue...);
    });
    return py::make_tuple(result.finish(), own_last, own_sums, sent.finish());
  }
}

template <class Backend>
py::object bind_gather_decode(Call<Backend>& call, py::handle indices, py::handle values,
                              py::handle table, py::handle bias, py::handle out) {
  const Import index_import = call.read(indices, "indices");
  const Import value_import = call.read(values, "values");
  const Import table_import = call.read(table, "table");
  const std::optional<Import> bias_import = call.read_optional(bias, "bias");
  const TensorView& view = value_import.view();
  Output result = call.output(out, values, tokens_shape(view, columns_of(table_import.view())),
                              table_import.view().dtype);
  call.run([&](const auto&... queue) {
    gather_decode(index_import.view(), view, table_import.view(), result.view(),
                  view_of(bias_import), queue...);
  });
  return result.finish();
}

/// The gradients of the values and of the table; None where one is not needed.
template <class Backend>
py::tuple bind_gather_decode_backward(Call<Backend>& call, py::handle dy, py::handle indices,
                                      py::handle values, py::handle table, py::handle needs,
                                      py::handle out) {
  const auto two = [&](const char* argument, py::handle given, const char* expected) {
    const bool sequence = PyTuple_Check(given.ptr()) != 0 || PyList_Check(given.ptr()) != 0;
    if (!sequence || PySequence_Size(given.ptr()) != 2) {
      throw ValueError(call.where(argument).text() + " is " + std::string(py::repr(given)) +
                       ", expected " + expected);
    }
    return py::tuple(py::reinterpret_borrow<py::object>(given));
  };
  const py::tuple flags = two("needs", needs, "two of True and False");
  const py::tuple outs =
      out.is_none() ? py::make_tuple(py::none(), py::none()) : two("out", out, "(dvalues, dtable)");
  const Import dy_import = call.read(dy, "dy");
  const Import index_import = call.read(indices, "indices");
  const Import value_import = call.read(values, "values");
  const Import table_import = call.read(table, "table");
  const auto output = [&](std::size_t i, const TensorView& like, const char* name) {
    std::optional<Output> result;
    if (read_flag(call.where("needs"), flags[i])) {
      result = call.output(outs[i], dy, shape_of(like), table_import.view().dtype, name);
    } else if (!outs[i].is_none()) {
      throw ValueError(call.where(name).text() +
                       " is an array, expected None where needs has False");
    }
    return result;
  };
  std::optional<Output> dvalues = output(0, value_import.view(), "out[0]");
  std::optional<Output> dtable = output(1, table_import.view(), "out[1]");
  const auto view = [](const std::optional<Output>& result) {
    return result.has_value() ? std::optional(result->view()) : std::nullopt;
  };
  const auto workspace = call.workspace(
      dy,
      [](const auto&... operands) { return cuda::gather_decode_backward_workspace(operands...); },
      dy_import.view(), index_import.view(), value_import.view(), table_import.view(),
      view(dvalues), view(dtable));
  call.run(workspace, [&](const auto&... queue) {
    gather_decode_backward(dy_import.view(), index_import.view(), value_import.view(),
                           table_import.view(), view(dvalues), view(dtable), queue...);
  });
  const auto finished = [](std::optional<Output>& result) -> py::object {
    return result.has_value() ? result->finish() : py::none();
  };
  return py::make_tuple(finished(dvalues), finished(dtable));
}

template <class Backend>
py::object bind_topk_rows_backward(Call<Backend>& call, py::handle dy, py::handle indices,
                                   std::int64_t columns, py::handle out) {
  const Import dy_import = call.read(dy, "dy");
  const Import index_import = call.read(indices, "indices");
  const TensorView& view = dy_import.view();
  if (columns < 0) {
    throw ValueError("topk_rows_backward: columns is " + std::to_string(columns) +
                     ", expected at least 0");
  }
  const Shape shape = tokens_shape(view, columns);
  Output result = call.output(out, dy, shape, view.dtype);
  if (!(shape_of(result.view()) == shape) && view.rank > 0) {
    throw ValueError("topk_rows_backward: out.shape is " + shape_string(result.view()) +
                     ", expected that of dy with columns = " + std::to_string(columns) +
                     " in place of its last extent");
  }
  call.run([&](const auto&... queue) {
    topk_rows_backward(view, index_import.view(), result.view(), queue...);
  });
  return result.finish();
}

}  // namespace

template <class Backend>
void bind_activation(py::module_& module) {
  define(module, "delta_linear", &bind_delta_linear<Backend>, py::arg("x"), py::arg("wt"),
         py::arg("last"), py::arg("sums"), py::arg("threshold"), py::arg("refresh"),
         py::arg("bias"), py::arg("activation"), py::arg("out"));
  define(module, "gather_decode", &bind_gather_decode<Backend>, py::arg("indices"),
         py::arg("values"), py::arg("table"), py::arg("bias"), py::arg("out"));
  define(module, "gather_decode_backward", &bind_gather_decode_backward<Backend>, py::arg("dy"),
         py::arg("indices"), py::arg("values"), py::arg("table"), py::arg("needs"), py::arg("out"));
  define(module, "topk_rows_backward", &bind_topk_rows_backward<Backend>, py::arg("dy"),
         py::arg("indices"), py::arg("columns"), py::arg("out"));
}

template void bind_activation<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
