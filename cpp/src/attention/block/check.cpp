#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "gossamer/detail/attention_checks.h"

namespace gossamer::detail {
namespace {

constexpr std::int64_t kMaxDepth = 256;

std::string text(std::int64_t n) { return std::to_string(n); }

void check_operand(const Checker& check, const Argument& x, int rank) {
  const DType type = x.view.dtype;
  if (type != DType::f32 && type != DType::f16 && type != DType::bf16) {
    check.type_error(std::string(x.name) + ".dtype is " + name_of(type) +
                     ", expected float32, float16 or bfloat16");
  }
  check.rank(x, {rank});
}

void check_depth(const Checker& check, const Argument& x) {
  const int axis = x.view.rank - 1;
  const std::int64_t depth = x.view.shape[static_cast<std::size_t>(axis)];
  if (depth >= 1 && depth <= kMaxDepth) return;
  check.value_error(std::string(x.name) + ".shape[" + text(axis) + "] is " + text(depth) +
                    ", expected 1 to " + text(kMaxDepth));
}

void check_starts(const Checker& check, const Argument& starts, Device device) {
  check.dtype(starts, DType::i32, "int32");
  check.rank(starts, {1});
  check.device(starts, device, "q");
  check.contiguous(starts);
  if (starts.view.shape[0] < 1) {
    check.value_error(std::string(starts.name) + " is empty, expected B + 1 numbers");
  }
}

}  // namespace

AttentionSizes check_attention_operands(const Checker& check, const TensorView& q,
                                        const TensorView& k, const TensorView& v,
                                        const BlockLayout& layout,
                                        const AttentionOptions& options) {
  AttentionSizes sizes{};
  sizes.packed = options.cu_q.has_value();
  const Argument q_arg{"q", q}, k_arg{"k", k}, v_arg{"v", v};
  const int rank = sizes.packed ? 3 : 4;
  check_operand(check, q_arg, rank);
  check_operand(check, k_arg, rank);
  check_operand(check, v_arg, rank);
  check.dtype(k_arg, q.dtype, "q");
  check.dtype(v_arg, q.dtype, "q");
  for (const Argument& x : {q_arg, k_arg, v_arg}) {
    check.device(x, q.device, "q");
    check.layout(x);
    check_depth(check, x);
  }
  if (!(layout.device() == q.device)) {
    check.value_error("layout is on " + to_string(layout.device()) + ", expected q's device " +
                      to_string(q.device));
  }
  const auto row = static_cast<std::size_t>(sizes.packed ? 0 : 1);
  sizes.heads = q.shape[row + 1];
  sizes.key_heads = k.shape[row + 1];
  sizes.depth = q.shape[row + 2];
  sizes.value_depth = v.shape[row + 2];
  check.extent(k_arg, rank - 1, sizes.depth, sizes.packed ? "q.shape[2]" : "q.shape[3]");
  check.extent(v_arg, rank - 2, sizes.key_heads, sizes.packed ? "k.shape[1]" : "k.shape[2]");
  check.extent(v_arg, rank - 3, k.shape[row], sizes.packed ? "k.shape[0]" : "k.shape[1]");
  if (sizes.key_heads < 1 || sizes.heads % sizes.key_heads != 0) {
    check.value_error("q has " + text(sizes.heads) + " heads, expected a multiple of k's " +
                      text(sizes.key_heads));
  }
  sizes.group = sizes.heads / sizes.key_heads;
  for (const Argument& x : {q_arg, k_arg}) {
    if (x.view.shape[row] > kMaxTokens) {
      check.value_error(std::string(x.name) + ".shape[" + text(static_cast<std::int64_t>(row)) +
                        "] is " + text(x.view.shape[row]) + ", expected less than 2**31 - 1024");
    }
  }
  sizes.tokens = q.shape[row];
  sizes.key_tokens = k.shape[row];
  if (options.cu_q.has_value() != options.cu_k.has_value()) {
    check.value_error("one of cu_seqlens and cu_seqlens_k is given, expected both or none");
  }
  if (sizes.packed) {
    check_starts(check, {"cu_seqlens", *options.cu_q}, q.device);
    check_starts(check, {"cu_seqlens_k", *options.cu_k}, q.device);
    check.extent({"cu_seqlens_k", *options.cu_k}, 0, options.cu_q->shape[0], "cu_seqlens.shape[0]");
    sizes.batch = options.cu_q->shape[0] - 1;
    return sizes;
  }
  check.extent(k_arg, 0, q.shape[0], "q.shape[0]");
  check.extent(v_arg, 0, q.shape[0], "q.shape[0]");
  sizes.longest = sizes.tokens;
  sizes.longest_keys = sizes.key_tokens;
  if (q.shape[0] > kMaxTokens) {
    check.value_error("q.shape[0] is " + text(q.shape[0]) + ", expected less than 2**31");
  }
  sizes.batch = q.shape[0];
  return sizes;
}

void check_rule(const Checker& check, double scale, std::optional<double> softcap) {
  // Scores are float32: so must their factors be.
  if (!std::isfinite(static_cast<float>(scale))) {
    check.value_error("scale is " + std::to_string(scale) + ", expected a finite number");
  }
  if (softcap &&
      !(static_cast<float>(*softcap) > 0 && std::isfinite(static_cast<float>(*softcap)))) {
    check.value_error("softcap is " + std::to_string(*softcap) + ", expected a positive number");
  }
}

void check_attention_options(const Checker& check, AttentionSizes& sizes, const TensorView& q,
                             const BlockLayout& layout, const AttentionOptions& given, bool known) {
  const LayoutShape& shape = layout.shape();
  if (shape.batch != 1 && shape.batch != sizes.batch) {
    check.value_error("layout.shape[0] is " + text(shape.batch) + ", expected 1 or " +
                      text(sizes.batch));
  }
  if (shape.heads != 1 && shape.heads != sizes.key_heads && shape.heads != sizes.heads) {
    check.value_error("layout.shape[1] is " + text(shape.heads) + ", expected 1, k's " +
                      text(sizes.key_heads) + " or q's " + text(sizes.heads));
  }
  const auto covers = [&](int axis, std::int64_t blocks, std::int64_t length, std::int64_t side) {
    const std::int64_t expected = (length + side - 1) / side;
    if (!known || blocks == expected) return;
    check.value_error("layout.shape[" + text(axis) + "] is " + text(blocks) + ", expected ceil(" +
                      text(length) + " / " + text(side) + ") = " + text(expected));
  };
  covers(2, shape.rows, sizes.longest, layout.block().rows);
  covers(3, shape.cols, sizes.longest_keys, layout.block().cols);
  const double scale = given.scale.value_or(1.0 / std::sqrt(static_cast<double>(sizes.depth)));
  check_rule(check, scale, given.softcap);
  for (const auto& [name, side] :
       {std::pair{"window[0]", given.before}, {"window[1]", given.after}}) {
    if (side && *side < 0) {
      check.value_error(std::string(name) + " is " + text(*side) + ", expected at least 0");
    }
  }
  if (given.q_offset && (*given.q_offset > kMaxTokens || *given.q_offset < -kMaxTokens)) {
    check.value_error("q_offset is " + text(*given.q_offset) + ", expected less than 2**31 - 1024");
  }
  sizes.scale = static_cast<float>(scale);
  if (given.bias) {
    const Argument bias{"bias", *given.bias};
    if (bias.view.dtype != DType::f32 && bias.view.dtype != q.dtype) {
      check.type_error(std::string("bias.dtype is ") + name_of(bias.view.dtype) +
                       ", expected float32 or q.dtype = " + name_of(q.dtype));
    }
    check.rank(bias, {4});
    check.device(bias, q.device, "q");
    check.layout(bias);
    const auto& extents = bias.view.shape;
    if ((extents[0] != 1 && extents[0] != sizes.batch) ||
        (extents[1] != 1 && extents[1] != sizes.heads) ||
        (known && (extents[2] != sizes.longest || extents[3] != sizes.longest_keys))) {
      check.value_error("bias.shape is " + shape_string(bias.view) + ", expected (" +
                        text(sizes.batch) + " or 1, " + text(sizes.heads) + " or 1, " +
                        text(sizes.longest) + ", " + text(sizes.longest_keys) + ")");
    }
  }
  if (given.sinks) {
    const Argument sinks{"sinks", *given.sinks};
    check.dtype(sinks, DType::f32, "float32");
    check.device(sinks, q.device, "q");
    check.shape(sinks, {sizes.heads});
    check.contiguous(sinks);
  }
}

void check_attention_result(const Checker& check, const Argument& out, Device device,
                            const AttentionOptions& options,
                            std::initializer_list<Argument> inputs) {
  check.device(out, device, "q");
  check.layout(out);
  // The axes by their strides, as Checker::writable expects them.
  TensorView sorted = out.view;
  for (std::size_t i = 1; i < static_cast<std::size_t>(sorted.rank); ++i) {
    for (std::size_t j = i; j > 0 && sorted.strides[j - 1] < sorted.strides[j]; --j) {
      std::swap(sorted.strides[j - 1], sorted.strides[j]);
      std::swap(sorted.shape[j - 1], sorted.shape[j]);
    }
  }
  const Argument result{out.name, sorted};
  check.writable(result, inputs);
  if (options.bias) check.writable(result, {{"bias", *options.bias}});
  if (options.sinks) check.writable(result, {{"sinks", *options.sinks}});
}

void check_attention_results(const Checker& check, const AttentionSizes& sizes,
                             const AttentionOptions& options, const TensorView& q,
                             const TensorView& k, const TensorView& v, const TensorView& o,
                             const TensorView& lse) {
  check.dtype({"out[0]", o}, q.dtype, "q");
  check.dtype({"out[1]", lse}, DType::f32, "float32");
  if (sizes.packed) {
    check.shape({"out[0]", o}, {sizes.tokens, sizes.heads, sizes.value_depth});
    check.shape({"out[1]", lse}, {sizes.heads, sizes.tokens});
  } else {
    check.shape({"out[0]", o}, {sizes.batch, sizes.longest, sizes.heads, sizes.value_depth});
    check.shape({"out[1]", lse}, {sizes.batch, sizes.heads, sizes.longest});
  }
  check_attention_result(check, {"out[0]", o}, q.device, options, {{"q", q}, {"k", k}, {"v", v}});
  check_attention_result(check, {"out[1]", lse}, q.device, options, {{"q", q}, {"k", k}, {"v", v}});
  check.contiguous({"out[1]", lse});
  check.writable({"out[1]", lse}, {{"out[0]", o}});
}

}  // namespace gossamer::detail
