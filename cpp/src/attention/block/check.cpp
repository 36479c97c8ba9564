#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "gossamer/detail/attention_checks.h"
#include "gossamer/detail/shown.h"

namespace gossamer::detail {
namespace {

constexpr std::int64_t kMaxDepth = 256;

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
    check.value_error("scale is " + shown(scale) + ", expected a finite number" +
                      (std::isfinite(scale) ? " of float32" : ""));
  }
  if (softcap &&
      !(static_cast<float>(*softcap) > 0 && std::isfinite(static_cast<float>(*softcap)))) {
    check.value_error("softcap is " + shown(*softcap) + ", expected a positive number" +
                      (*softcap > 0 && std::isfinite(*softcap) ? " of float32" : ""));
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

void check_attention_gradients(const Checker& check, const AttentionSizes& sizes,
                               const AttentionOptions& options, const AttentionGradient& given,
                               const TensorView& q, const TensorView& k, const TensorView& v,
                               const AttentionGradients& out, bool known) {
  TensorView o = q;
  o.shape[static_cast<std::size_t>(q.rank) - 1] = sizes.value_depth;
  for (const Argument& x : {Argument{"do", given.d_o}, Argument{"o", given.o}}) {
    check.dtype(x, q.dtype, "q");
    check.same_shape(x, {"the result", o});
    check.device(x, q.device, "q");
    check.layout(x);
  }
  const auto check_logs = [&](const Argument& x) {
    check.dtype(x, DType::f32, "float32");
    if (sizes.packed) {
      check.shape(x, {sizes.heads, sizes.tokens});
    } else {
      check.shape(x, {sizes.batch, sizes.heads, sizes.longest});
    }
    check.device(x, q.device, "q");
    check.contiguous(x);
  };
  check_logs({"lse", given.lse});
  if (given.d_lse) check_logs({"dlse", *given.d_lse});
  const auto apart = [&](const Argument& x, std::initializer_list<Argument> inputs) {
    check_attention_result(check, x, q.device, options, inputs);
  };
  const auto check_written = [&](const Argument& x) {
    apart(x, {{"q", q}, {"k", k}, {"v", v}, {"do", given.d_o}, {"o", given.o}, {"lse", given.lse}});
    if (given.d_lse) apart(x, {{"dlse", *given.d_lse}});
  };
  const auto check_like = [&](const Argument& x, const Argument& like) {
    check.dtype(x, like.view.dtype, like.name);
    check.same_shape(x, like);
    check_written(x);
  };
  check_like({"dq", out.dq}, {"q", q});
  check_like({"dk", out.dk}, {"k", k});
  check_like({"dv", out.dv}, {"v", v});
  apart({"dk", out.dk}, {{"dq", out.dq}});
  apart({"dv", out.dv}, {{"dq", out.dq}, {"dk", out.dk}});
  if (out.dbias) {
    if (!options.bias) check.value_error("dbias is given without a bias, expected both");
    check.dtype({"dbias", *out.dbias}, DType::f32, "float32");
    const Argument bias{"bias", *options.bias};
    check.shape(bias, {sizes.batch, sizes.heads, known ? sizes.longest : bias.view.shape[2],
                       known ? sizes.longest_keys : bias.view.shape[3]});
    check.same_shape({"dbias", *out.dbias}, bias);
    check.contiguous({"dbias", *out.dbias});
    check_written({"dbias", *out.dbias});
  }
  if (out.dsinks) {
    if (!options.sinks) check.value_error("dsinks is given without sinks, expected both");
    check.dtype({"dsinks", *out.dsinks}, DType::f32, "float32");
    check.shape({"dsinks", *out.dsinks}, {sizes.heads});
    check.contiguous({"dsinks", *out.dsinks});
    check_written({"dsinks", *out.dsinks});
  }
}

namespace {

void check_array(const Checker& check, const Argument& x, DType type, const char* like,
                 std::initializer_list<int> ranks, Device device) {
  check.dtype(x, type, like);
  check.rank(x, ranks);
  check.device(x, device, "q");
  check.layout(x);
}

void check_lists(const Checker& check, const DecodeKeys& keys, DecodeSizes& d, Device device) {
  const Argument indptr{"indptr", keys.indptr}, indices{"indices", keys.indices};
  for (const Argument& x : {indptr, indices}) {
    check_array(check, x, DType::i32, "int32", {1}, device);
    check.contiguous(x);
  }
  const std::int64_t rows = keys.indptr.shape[0] - 1;
  if (rows != d.batch && rows != d.batch * d.key_heads) {
    check.value_error("indptr.shape[0] is " + text(rows + 1) + ", expected B + 1 = " +
                      text(d.batch + 1) + " or B*Hkv + 1 = " + text(d.batch * d.key_heads + 1));
  }
  d.lists = rows == d.batch ? 1 : d.key_heads;
  if (!keys.lengths) return;
  const Argument lengths{"lengths", *keys.lengths};
  check_array(check, lengths, DType::i32, "int32", {1, 2}, device);
  check.contiguous(lengths);
  check.extent(lengths, 0, d.batch, "q.shape[0]");
  if (keys.lengths->rank == 2) check.extent(lengths, 1, d.lists, "the lists of a sequence");
}

}  // namespace

DecodeSizes check_attention_decode(const Checker& check, const TensorView& q, const TensorView& k,
                                   const TensorView& v, const DecodeKeys& keys,
                                   const AttentionOptions& options, const TensorView& o,
                                   const TensorView& lse) {
  if (q.dtype != DType::f32 && q.dtype != DType::f16 && q.dtype != DType::bf16) {
    check.type_error(std::string("q.dtype is ") + name_of(q.dtype) +
                     ", expected float32, float16 or bfloat16");
  }
  const Argument k_arg{"k_cache", k}, v_arg{"v_cache", v};
  for (const Argument& x : {Argument{"q", q}, k_arg, v_arg}) {
    check_array(check, x, q.dtype, "q", {4}, q.device);
    if (x.view.shape[3] < 1 || x.view.shape[3] > 256) {
      check.value_error(std::string(x.name) + ".shape[3] is " + text(x.view.shape[3]) +
                        ", expected 1 to 256");
    }
  }
  DecodeSizes d{};
  d.batch = q.shape[0];
  d.queries = q.shape[1];
  d.heads = q.shape[2];
  d.depth = q.shape[3];
  d.pages = k.shape[0];
  d.page_size = k.shape[1];
  d.key_heads = k.shape[2];
  d.value_depth = v.shape[3];
  check.extent(k_arg, 3, d.depth, "q.shape[3]");
  for (int axis = 0; axis < 3; ++axis) {
    check.extent(v_arg, axis, k.shape[static_cast<std::size_t>(axis)],
                 ("k_cache.shape[" + text(axis) + "]").c_str());
  }
  if (d.key_heads < 1 || d.heads % d.key_heads != 0) {
    check.value_error("q has " + text(d.heads) + " heads, expected a multiple of k_cache's " +
                      text(d.key_heads));
  }
  d.group = d.heads / d.key_heads;
  check_lists(check, keys, d, q.device);
  const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(d.depth)));
  check_rule(check, scale, options.softcap);
  d.scale = static_cast<float>(scale);
  if (options.sinks) {
    check.dtype({"sinks", *options.sinks}, DType::f32, "float32");
    check.device({"sinks", *options.sinks}, q.device, "q");
    check.shape({"sinks", *options.sinks}, {d.heads});
    check.contiguous({"sinks", *options.sinks});
  }
  check.dtype({"out[0]", o}, q.dtype, "q");
  check.shape({"out[0]", o}, {d.batch, d.queries, d.heads, d.value_depth});
  check.dtype({"out[1]", lse}, DType::f32, "float32");
  check.shape({"out[1]", lse}, {d.batch, d.heads, d.queries});
  check.contiguous({"out[1]", lse});
  for (const Argument& x : {Argument{"out[0]", o}, Argument{"out[1]", lse}}) {
    check.device(x, q.device, "q");
    check.layout(x);
    check.writable(x, {{"q", q}, k_arg, v_arg, {"indptr", keys.indptr}, {"indices", keys.indices}});
    if (keys.lengths) check.writable(x, {{"lengths", *keys.lengths}});
    if (options.sinks) check.writable(x, {{"sinks", *options.sinks}});
  }
  check.writable({"out[1]", lse}, {{"out[0]", o}});
  return d;
}

namespace {

std::string indexed(const char* name, std::size_t i) {
  std::string result = name;
  result += std::to_string(i);
  result += ']';
  return result;
}

void check_part(const Checker& check, const Argument& o, const Argument& lse, const TensorView& out,
                const TensorView& log) {
  check.dtype(o, out.dtype, "out[0]");
  check.dtype(lse, DType::f32, "float32");
  check.same_shape(o, {"out[0]", out});
  check.same_shape(lse, {"out[1]", log});
  for (const Argument& x : {o, lse}) {
    check.device(x, out.device, "out[0]");
    check.layout(x);
  }
  check.contiguous(lse);
}

}  // namespace

void check_merge_attention(const Checker& check, std::span<const TensorView> o_parts,
                           std::span<const TensorView> lse_parts, const TensorView& o,
                           const TensorView& lse) {
  if (o_parts.empty() || o_parts.size() != lse_parts.size()) {
    check.value_error("there are " + std::to_string(o_parts.size()) + " o and " +
                      std::to_string(lse_parts.size()) + " lse, expected as many and at least 1");
  }
  if (o.dtype != DType::f32 && o.dtype != DType::f16 && o.dtype != DType::bf16) {
    check.type_error(std::string("o[0].dtype is ") + name_of(o.dtype) +
                     ", expected float32, float16 or bfloat16");
  }
  check.rank({"o[0]", o}, {3, 4});
  check.layout({"out[0]", o});
  check.dtype({"out[1]", lse}, DType::f32, "float32");
  if (o.rank == 4) {
    check.shape({"lse[0]", lse}, {o.shape[0], o.shape[2], o.shape[1]});
  } else {
    check.shape({"lse[0]", lse}, {o.shape[1], o.shape[0]});
  }
  check.contiguous({"out[1]", lse});
  for (std::size_t s = 0; s < o_parts.size(); ++s) {
    const std::string o_name = indexed("o[", s), lse_name = indexed("lse[", s);
    const Argument part{o_name.c_str(), o_parts[s]}, log{lse_name.c_str(), lse_parts[s]};
    check_part(check, part, log, o, lse);
    check.writable({"out[0]", o}, {part, log});
    check.writable({"out[1]", lse}, {part, log});
  }
  check.writable({"out[1]", lse}, {{"out[0]", o}});
}

namespace {

void check_numbers(const Checker& check, const Argument& x) {
  const DType type = x.view.dtype;
  if (type != DType::f32 && type != DType::f16 && type != DType::bf16) {
    check.type_error(std::string(x.name) + ".dtype is " + name_of(type) +
                     ", expected float32, float16 or bfloat16");
  }
  check.rank(x, {4});
  check.layout(x);
}

void at_least(const Checker& check, const char* name, std::int64_t value, std::int64_t least) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (value < least || value > kMost) {
    check.value_error(std::string(name) + " is " + text(value) + ", expected " + text(least) +
                      " to " + text(kMost));
  }
}

}  // namespace

void check_block_pool(const Checker& check, const TensorView& x, std::int64_t block,
                      const TensorView& out) {
  check_numbers(check, {"x", x});
  at_least(check, "block", block, 1);
  check.device({"x", x}, x.device, "x");
  const std::int64_t length = x.shape[1], heads = x.shape[2], depth = x.shape[3];
  const std::int64_t blocks = length / block + (length % block != 0);
  check.dtype({"out", out}, DType::f32, "float32");
  check.shape({"out", out}, {x.shape[0], blocks, heads, depth});
  check.device({"out", out}, x.device, "x");
  check.layout({"out", out});
  check.writable({"out", out}, {{"x", x}});
}

void check_block_topk(const Checker& check, const TensorView& q, const TensorView& pooled,
                      const std::optional<TensorView>& pooled_min, const BlockTopkOptions& options,
                      const TensorView& indices) {
  check_numbers(check, {"q", q});
  check_numbers(check, {"pooled", pooled});
  check.device({"q", q}, q.device, "q");
  check.device({"pooled", pooled}, q.device, "q");
  const std::int64_t batch = q.shape[0], rows = q.shape[1], heads = q.shape[2], depth = q.shape[3];
  const std::int64_t key_heads = pooled.shape[2];
  check.extent({"pooled", pooled}, 0, batch, "q.shape[0]");
  check.extent({"pooled", pooled}, 3, depth, "q.shape[3]");
  if (key_heads < 1 || heads % key_heads != 0) {
    check.value_error("q has " + text(heads) + " heads, expected a multiple of pooled's " +
                      text(key_heads));
  }
  if (pooled_min) {
    check_numbers(check, {"pooled_min", *pooled_min});
    check.same_shape({"pooled_min", *pooled_min}, {"pooled", pooled});
    check.device({"pooled_min", *pooled_min}, q.device, "q");
  }
  at_least(check, "k", options.k, 0);
  at_least(check, "rows", options.rows, 1);
  at_least(check, "block", options.block, 1);
  at_least(check, "keep_first", options.keep_first, 0);
  at_least(check, "keep_local", options.keep_local, 0);
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (options.q_offset > kMost || options.q_offset < -kMost) {
    check.value_error("q_offset is " + text(options.q_offset) + ", expected less than 2**31");
  }
  check.dtype({"out", indices}, DType::i32, "int32");
  check.shape({"out", indices}, {batch, rows, key_heads, options.k});
  check.device({"out", indices}, q.device, "q");
  check.layout({"out", indices});
  check.writable({"out", indices}, {{"q", q}, {"pooled", pooled}});
  if (pooled_min) check.writable({"out", indices}, {{"pooled_min", *pooled_min}});
}

}  // namespace gossamer::detail
