#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>

#include "gossamer/detail/activation_checks.h"
#include "gossamer/detail/shown.h"

namespace gossamer::detail {
namespace {

void check_activation(const Checker& check, Activation activation, double lo, double hi) {
  if (activation == Activation::clamp && !(lo <= hi)) {
    check.value_error("activation is clamp from " + shown(lo) + " to " + shown(hi) +
                      ", expected lo <= hi");
  }
}

/// `out` has the shape of x [..., ·], called `name`, with `width` in place of its last extent, and
/// may be written: it shares no memory with x and `other`.
Tokens check_tokens(const Checker& check, const TensorView& x, const char* name, std::int64_t width,
                    const TensorView& out, const Argument& other) {
  check.dtype({"out", out}, x.dtype, name);
  check.device({"out", out}, x.device, name);
  TensorView expected = x;
  expected.shape[static_cast<std::size_t>(x.rank - 1)] = width;
  if (out.rank != x.rank ||
      !std::equal(expected.shape.begin(), expected.shape.begin() + x.rank, out.shape.begin())) {
    check.value_error("out.shape is " + shape_string(out) + ", expected " + shape_string(expected));
  }
  check.layout({"out", out});
  check.writable({"out", out}, {{name, x}, other});
  return {.from = check.tokens({name, x}), .to = check.tokens({"out", out})};
}

/// `bias` has one number for each of the `columns` columns of the argument called `matrix`, and the
/// type of `like`.
void check_bias(const Checker& check, const TensorView& given, std::int64_t columns,
                const std::string& matrix, const Argument& like, const TensorView& out) {
  const Argument bias{"bias", given};
  const std::string what = matrix + ".shape[1]";
  check.rank(bias, {1});
  check.dtype(bias, like.view.dtype, like.name);
  check.device(bias, like.view.device, like.name);
  check.extent(bias, 0, columns, what.c_str());
  check.layout(bias);
  check.writable({"out", out}, {bias});
}

void check_at_most(const Checker& check, const char* what, std::int64_t count) {
  if (count > INT32_MAX) {
    check.value_error(std::string(what) + " is " + std::to_string(count) +
                      ", expected at most 2147483647");
  }
}

/// Checks what gather_decode and its gradients read; `row` [..., d] is its result, or the gradient
/// of that.
Decoding check_decoding(const Checker& check, const TensorView& indices, const TensorView& values,
                        const TensorView& table, const Argument& row) {
  check.rank({"table", table}, {2});
  check.floating({"table", table});
  check.device({"table", table}, table.device, "table");
  check.layout({"table", table});
  check_at_most(check, "table.shape[0]", table.shape[0]);
  if (values.rank < 1) check.value_error("values.ndim is 0, expected at least 1");
  check.dtype({"values", values}, table.dtype, "table");
  check.device({"values", values}, table.device, "table");
  check.layout({"values", values});
  check.index({"indices", indices});
  check.device({"indices", indices}, table.device, "table");
  check.same_shape({"indices", indices}, {"values", values});
  check.layout({"indices", indices});
  check.dtype(row, table.dtype, "table");
  check.device(row, table.device, "table");
  TensorView expected = values;
  expected.shape[static_cast<std::size_t>(values.rank - 1)] = table.shape[1];
  if (row.view.rank != values.rank ||
      !std::equal(expected.shape.begin(), expected.shape.begin() + values.rank,
                  row.view.shape.begin())) {
    check.value_error(std::string(row.name) + ".shape is " + shape_string(row.view) +
                      ", expected " + shape_string(expected));
  }
  check.layout(row);
  return {.indices = check.tokens({"indices", indices}),
          .values = check.tokens({"values", values}),
          .out = check.tokens(row)};
}

}  // namespace

void check_threshold(const Checker& check, const Threshold& threshold, std::int64_t channels,
                     const char* what, DType dtype, Device device, const TensorView& out) {
  if (!threshold.channels.has_value()) {
    if (std::isnan(threshold.value)) check.value_error("threshold is nan, expected a number");
    return;
  }
  const Argument given{"threshold", *threshold.channels};
  check.rank(given, {1});
  if (given.view.dtype != DType::f32 && given.view.dtype != dtype) {
    const std::string also = dtype == DType::f32 ? "" : std::string(" or ") + name_of(dtype);
    check.type_error(std::string("threshold.dtype is ") + name_of(given.view.dtype) +
                     ", expected float32" + also);
  }
  check.device(given, device, "x");
  check.extent(given, 0, channels, what);
  check.layout(given);
  check.writable({"out", out}, {given});
}

Tokens check_sparse_linear(const Checker& check, const TensorView& x, const TensorView& wt,
                           const Threshold& threshold, const TensorView& out,
                           const Epilogue& epilogue) {
  if (x.rank < 1) check.value_error("x.ndim is 0, expected at least 1");
  check.floating({"x", x});
  check.device({"x", x}, x.device, "x");
  check.rank({"wt", wt}, {2});
  check.dtype({"wt", wt}, x.dtype, "x");
  check.device({"wt", wt}, x.device, "x");
  check.extent({"x", x}, x.rank - 1, wt.shape[0], "wt.shape[0]");
  check_at_most(check, "wt.shape[0]", wt.shape[0]);
  check.layout({"x", x});
  check.layout({"wt", wt});
  check_activation(check, epilogue.activation, epilogue.lo, epilogue.hi);
  const Tokens tokens = check_tokens(check, x, "x", wt.shape[1], out, {"wt", wt});
  check_threshold(check, threshold, wt.shape[0], "wt.shape[0]", x.dtype, x.device, out);
  if (epilogue.bias.has_value()) {
    check_bias(check, *epilogue.bias, wt.shape[1], "wt", {"x", x}, out);
  }
  return tokens;
}

Tokens check_gated_mlp(const Checker& check, const TensorView& x, const TensorView& w_gate,
                       const TensorView& w_up, const TensorView& w_down_t,
                       const Threshold& threshold, const TensorView& out,
                       const GatedMlpOptions& options) {
  if (x.rank < 1) check.value_error("x.ndim is 0, expected at least 1");
  check.floating({"x", x});
  check.device({"x", x}, x.device, "x");
  const Argument gate{"w_gate", w_gate};
  for (const Argument& w : {gate, Argument{"w_up", w_up}, Argument{"w_down_t", w_down_t}}) {
    check.rank(w, {2});
    check.dtype(w, x.dtype, "x");
    check.device(w, x.device, "x");
    check.same_shape(w, gate);
    check.layout(w);
  }
  check.extent({"x", x}, x.rank - 1, w_gate.shape[1], "w_gate.shape[1]");
  check.layout({"x", x});
  check_at_most(check, "w_gate.shape[0]", w_gate.shape[0]);
  check_activation(check, options.activation, options.lo, options.hi);
  const Tokens tokens = check_tokens(check, x, "x", w_gate.shape[1], out, gate);
  check.writable({"out", out}, {{"w_up", w_up}, {"w_down_t", w_down_t}});
  check_threshold(check, threshold, w_gate.shape[0], "w_gate.shape[0]", x.dtype, x.device, out);
  return tokens;
}

Tokens check_delta_linear(const Checker& check, const TensorView& x, const TensorView& wt,
                          const DeltaState& state, const Threshold& threshold,
                          const TensorView& out, const Epilogue& epilogue) {
  const Tokens tokens = check_sparse_linear(check, x, wt, threshold, out, epilogue);
  const Argument last{"state.last", state.last}, sums{"state.sums", state.sums};
  const DType real = x.dtype == DType::f64 ? DType::f64 : DType::f32;
  for (const auto& [part, like] :
       {std::pair{last, Argument{"x", x}}, std::pair{sums, Argument{"out", out}}}) {
    if (part.view.dtype != real) {
      check.type_error(std::string(part.name) + ".dtype is " + name_of(part.view.dtype) +
                       ", expected " + name_of(real));
    }
    check.device(part, x.device, "x");
    check.same_shape(part, like);
    check.contiguous(part);
    check.writable(part, {{"x", x}, {"wt", wt}, {"out", out}});
    if (threshold.channels.has_value()) check.writable(part, {{"threshold", *threshold.channels}});
    if (epilogue.bias.has_value()) check.writable(part, {{"bias", *epilogue.bias}});
  }
  check.writable(sums, {last});
  return tokens;
}

Decoding check_gather_decode(const Checker& check, const TensorView& indices,
                             const TensorView& values, const TensorView& table,
                             const TensorView& out, const std::optional<TensorView>& bias) {
  const Decoding all = check_decoding(check, indices, values, table, {"out", out});
  check.writable({"out", out}, {{"indices", indices}, {"values", values}, {"table", table}});
  if (bias.has_value()) check_bias(check, *bias, table.shape[1], "table", {"table", table}, out);
  return all;
}

Decoding check_gather_decode_backward(const Checker& check, const TensorView& dy,
                                      const TensorView& indices, const TensorView& values,
                                      const TensorView& table,
                                      const std::optional<TensorView>& dvalues,
                                      const std::optional<TensorView>& dtable) {
  const Decoding all = check_decoding(check, indices, values, table, {"dy", dy});
  const std::int64_t k = values.shape[static_cast<std::size_t>(values.rank - 1)];
  check_at_most(check, "the number of tokens", k == 0 ? 0 : values.numel() / k);
  for (const auto& [part, name, like] : {std::tuple{&dvalues, "out[0]", Argument{"values", values}},
                                         std::tuple{&dtable, "out[1]", Argument{"table", table}}}) {
    if (!part->has_value()) continue;
    const Argument out{name, **part};
    check.dtype(out, table.dtype, "table");
    check.device(out, table.device, "table");
    check.same_shape(out, like);
    check.contiguous(out);
    check.writable(out, {{"dy", dy}, {"indices", indices}, {"values", values}, {"table", table}});
  }
  if (dvalues.has_value() && dtable.has_value()) {
    check.writable({"out[1]", *dtable}, {{"out[0]", *dvalues}});
  }
  return all;
}

Decoding check_topk_rows_backward(const Checker& check, const TensorView& dy,
                                  const TensorView& indices, const TensorView& out) {
  if (dy.rank < 1) check.value_error("dy.ndim is 0, expected at least 1");
  check.floating({"dy", dy});
  check.device({"dy", dy}, dy.device, "dy");
  check.layout({"dy", dy});
  check.index({"indices", indices});
  check.device({"indices", indices}, dy.device, "dy");
  check.same_shape({"indices", indices}, {"dy", dy});
  check.layout({"indices", indices});
  const std::int64_t width =
      out.rank == dy.rank ? out.shape[static_cast<std::size_t>(dy.rank - 1)] : 0;
  check_at_most(check, "out.shape[-1]", width);
  const Tokens rows = check_tokens(check, dy, "dy", width, out, {"indices", indices});
  return {.indices = check.tokens({"indices", indices}), .values = rows.from, .out = rows.to};
}

}  // namespace gossamer::detail
