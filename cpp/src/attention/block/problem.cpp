#include "attention/block/problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "base/kernels.h"
#include "base/levels.h"
#include "base/work.h"

namespace gossamer::detail {
namespace {

constexpr std::int64_t kMaxDepth = 256;
constexpr std::int64_t kMaxTokens = std::numeric_limits<std::int32_t>::max() - 1024;

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

std::vector<std::int32_t> check_starts(const Checker& check, const Argument& starts,
                                       std::int64_t tokens) {
  const TensorView& view = starts.view;
  check.dtype(starts, DType::i32, "int32");
  check.rank(starts, {1});
  check.device(starts, view.device, starts.name);
  check.contiguous(starts);
  const auto* given = static_cast<const std::int32_t*>(view.data);
  const auto n = static_cast<std::size_t>(view.shape[0]);
  std::vector<std::int32_t> at(given, given + n);
  if (n < 1) check.value_error(std::string(starts.name) + " is empty, expected B + 1 numbers");
  if (at[0] != 0) {
    check.value_error(std::string(starts.name) + "[0] is " + text(at[0]) + ", expected 0");
  }
  for (std::size_t b = 1; b < n; ++b) {
    if (at[b] < at[b - 1]) {
      check.value_error(std::string(starts.name) + "[" + std::to_string(b) + "] is " + text(at[b]) +
                        ", expected at least " + text(at[b - 1]));
    }
  }
  if (at[n - 1] != tokens) {
    check.value_error(std::string(starts.name) + "[-1] is " + text(at[n - 1]) +
                      ", expected the number of tokens = " + text(tokens));
  }
  return at;
}

}  // namespace

Operand Problem::operand(const TensorView& view) const {
  const auto& s = view.strides;
  return {.data = static_cast<std::byte*>(view.data),
          .type = view.dtype,
          .batch = packed ? 0 : s[0],
          .row = packed ? s[0] : s[1],
          .head = packed ? s[1] : s[2]};
}

Problem::Problem(const Checker& check, const TensorView& q_view, const TensorView& k_view,
                 const TensorView& v_view, const BlockLayout& pattern,
                 const AttentionOptions& given)
    : packed(given.cu_q.has_value()),
      shape(pattern.shape()),
      block(pattern.block()),
      layout(pattern),
      options(given) {
  const Argument q_arg{"q", q_view}, k_arg{"k", k_view}, v_arg{"v", v_view};
  const int rank = packed ? 3 : 4;
  check_operand(check, q_arg, rank);
  check_operand(check, k_arg, rank);
  check_operand(check, v_arg, rank);
  check.dtype(k_arg, q_view.dtype, "q");
  check.dtype(v_arg, q_view.dtype, "q");
  for (const Argument& x : {q_arg, k_arg, v_arg}) {
    check.device(x, q_view.device, "q");
    check.layout(x);
    check_depth(check, x);
  }
  if (!(pattern.device() == q_view.device)) {
    check.value_error("layout is on " + to_string(pattern.device()) + ", expected q's device " +
                      to_string(q_view.device));
  }
  const auto row = static_cast<std::size_t>(packed ? 0 : 1);
  heads = q_view.shape[row + 1];
  key_heads = k_view.shape[row + 1];
  depth = q_view.shape[row + 2];
  value_depth = v_view.shape[row + 2];
  value_width = round_up(value_depth, kKeyUnit);
  check.extent(k_arg, rank - 1, depth, packed ? "q.shape[2]" : "q.shape[3]");
  check.extent(v_arg, rank - 2, key_heads, packed ? "k.shape[1]" : "k.shape[2]");
  check.extent(v_arg, rank - 3, k_view.shape[row], packed ? "k.shape[0]" : "k.shape[1]");
  if (key_heads < 1 || heads % key_heads != 0) {
    check.value_error("q has " + text(heads) + " heads, expected a multiple of k's " +
                      text(key_heads));
  }
  group = heads / key_heads;
  for (const Argument& x : {q_arg, k_arg}) {
    if (x.view.shape[row] > kMaxTokens) {
      check.value_error(std::string(x.name) + ".shape[" + text(static_cast<std::int64_t>(row)) +
                        "] is " + text(x.view.shape[row]) + ", expected less than 2**31 - 1024");
    }
  }
  tokens = q_view.shape[row];
  if (given.cu_q.has_value() != given.cu_k.has_value()) {
    check.value_error("one of cu_seqlens and cu_seqlens_k is given, expected both or none");
  }
  if (packed) {
    const std::vector<std::int32_t> qs = check_starts(check, {"cu_seqlens", *given.cu_q}, tokens);
    const std::vector<std::int32_t> ks =
        check_starts(check, {"cu_seqlens_k", *given.cu_k}, k_view.shape[0]);
    check.extent({"cu_seqlens_k", *given.cu_k}, 0, given.cu_q->shape[0], "cu_seqlens.shape[0]");
    longest = longest_keys = 0;
    for (std::size_t b = 0; b + 1 < qs.size(); ++b) {
      sequences.push_back({.queries = qs[b + 1] - qs[b],
                           .keys = ks[b + 1] - ks[b],
                           .first_query = qs[b],
                           .first_key = ks[b]});
      longest = std::max(longest, sequences.back().queries);
      longest_keys = std::max(longest_keys, sequences.back().keys);
    }
  } else {
    check.extent(k_arg, 0, q_view.shape[0], "q.shape[0]");
    check.extent(v_arg, 0, q_view.shape[0], "q.shape[0]");
    longest = tokens;
    longest_keys = k_view.shape[1];
    if (q_view.shape[0] > kMaxTokens) {
      check.value_error("q.shape[0] is " + text(q_view.shape[0]) + ", expected less than 2**31");
    }
    sequences.assign(static_cast<std::size_t>(q_view.shape[0]),
                     {.queries = longest, .keys = longest_keys, .first_query = 0, .first_key = 0});
  }
  if (shape.batch != 1 && shape.batch != batch()) {
    check.value_error("layout.shape[0] is " + text(shape.batch) + ", expected 1 or " +
                      text(batch()));
  }
  if (shape.heads != 1 && shape.heads != key_heads && shape.heads != heads) {
    check.value_error("layout.shape[1] is " + text(shape.heads) + ", expected 1, k's " +
                      text(key_heads) + " or q's " + text(heads));
  }
  const auto covers = [&](int axis, std::int64_t blocks, std::int64_t length, std::int64_t side) {
    if (blocks == ceil_div(length, side)) return;
    check.value_error("layout.shape[" + text(axis) + "] is " + text(blocks) + ", expected ceil(" +
                      text(length) + " / " + text(side) + ") = " + text(ceil_div(length, side)));
  };
  covers(2, shape.rows, longest, block.rows);
  covers(3, shape.cols, longest_keys, block.cols);
  q = operand(q_view);
  k = operand(k_view);
  v = operand(v_view);
  device = q_view.device;

  const double scale = given.scale.value_or(1.0 / std::sqrt(static_cast<double>(depth)));
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
  limited = given.causal || given.before || given.after;
  rule = {.scale = static_cast<float>(scale),
          .softcap = static_cast<float>(given.softcap.value_or(0)),
          .bias_type = DType::f32};
  if (given.bias) {
    const Argument bias{"bias", *given.bias};
    rule.bias_type = bias.view.dtype;
    if (bias.view.dtype != DType::f32 && bias.view.dtype != q_view.dtype) {
      check.type_error(std::string("bias.dtype is ") + name_of(bias.view.dtype) +
                       ", expected float32 or q.dtype = " + name_of(q_view.dtype));
    }
    check.rank(bias, {4});
    check.device(bias, q_view.device, "q");
    check.layout(bias);
    const auto& extents = bias.view.shape;
    if ((extents[0] != 1 && extents[0] != batch()) || (extents[1] != 1 && extents[1] != heads) ||
        extents[2] != longest || extents[3] != longest_keys) {
      check.value_error("bias.shape is " + shape_string(bias.view) + ", expected (" +
                        text(batch()) + " or 1, " + text(heads) + " or 1, " + text(longest) + ", " +
                        text(longest_keys) + ")");
    }
  }
  if (given.sinks) {
    const Argument sinks{"sinks", *given.sinks};
    check.dtype(sinks, DType::f32, "float32");
    check.device(sinks, q_view.device, "q");
    check.shape(sinks, {heads});
    check.contiguous(sinks);
  }
}

QueryRow Problem::query_row(std::int64_t b, std::int64_t head, std::int64_t i) const {
  const Sequence& sequence = sequences[static_cast<std::size_t>(b)];
  const std::int64_t at = i + options.q_offset.value_or(sequence.keys - sequence.queries);
  std::int64_t first = 0, last = sequence.keys;
  if (options.before) first = std::max(first, at - std::min(*options.before, kMaxTokens));
  if (options.after) last = std::min(last, at + std::min(*options.after, kMaxTokens) + 1);
  if (options.causal) last = std::min(last, at + 1);
  first = std::min(first, sequence.keys);
  last = std::max<std::int64_t>(last, 0);
  const void* bias = nullptr;
  if (options.bias) {
    const TensorView& view = *options.bias;
    const std::int64_t offset = (view.shape[0] == 1 ? 0 : b * view.strides[0]) +
                                (view.shape[1] == 1 ? 0 : head * view.strides[1]) +
                                i * view.strides[2];
    bias = static_cast<const std::byte*>(view.data) + offset * size_of(view.dtype);
  }
  return {.first = static_cast<std::int32_t>(first),
          .last = static_cast<std::int32_t>(last),
          .bits_row = static_cast<std::int32_t>(i % block.rows),
          .bias = bias,
          .bias_slope = nullptr};
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

void check_result(const Checker& check, const Argument& out, const Problem& problem,
                  std::initializer_list<Argument> inputs) {
  check.device(out, problem.device, "q");
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
  if (problem.options.bias) check.writable(result, {{"bias", *problem.options.bias}});
  if (problem.options.sinks) check.writable(result, {{"sinks", *problem.options.sinks}});
}

bool multiplies_pairs(const Operand& x, std::int64_t depth) {
#if defined(__x86_64__)
  return x.type == DType::bf16 && depth % 2 == 0 && x.row % 2 == 0 && x.head % 2 == 0 &&
         x.batch % 2 == 0 && reinterpret_cast<std::uintptr_t>(x.data) % 4 == 0 &&
         vector_bytes() == 64 && __builtin_cpu_supports("avx512bf16");
#else
  static_cast<void>(x);
  static_cast<void>(depth);
  return false;
#endif
}

std::vector<RowTask> cut_tasks(const Problem& p, std::int64_t pair0, std::int64_t pair1) {
  const auto* indptr = static_cast<const std::int32_t*>(p.layout.indptr().data);
  const std::int64_t sets = p.group / p.shared();
  const auto for_heads = [&](auto&& body) {
    for (std::int64_t pair = pair0; pair < pair1; ++pair) {
      for (std::int64_t set = 0; set < sets; ++set) {
        const std::int64_t b = pair / p.key_heads;
        const std::int64_t rows =
            ceil_div(p.sequences[static_cast<std::size_t>(b)].queries, p.block.rows);
        body(b, pair % p.key_heads * p.group + set * p.shared(), rows);
      }
    }
  };
  std::int64_t work = 0;
  for_heads([&](std::int64_t b, std::int64_t head, std::int64_t rows) {
    const std::int64_t first = p.layout_row(b, head, 0);
    work += indptr[first + rows] - indptr[first] + rows;
  });
  const std::int64_t share = std::max<std::int64_t>(work / (std::int64_t{16} * num_threads()), 1);
  std::vector<RowTask> tasks;
  for_heads([&](std::int64_t b, std::int64_t head, std::int64_t rows) {
    const std::int64_t first = p.layout_row(b, head, 0);
    for (std::int64_t row = 0; row < rows;) {
      std::int64_t end = row + 1;
      while (end < rows && indptr[first + end] - indptr[first + row] + end - row < share) ++end;
      tasks.push_back({.b = b, .head = head, .row0 = row, .row1 = end});
      row = end;
    }
  });
  return tasks;
}

void pack_columns(const std::byte* from, DType type, std::int64_t stride, std::int64_t count,
                  std::int64_t depth, std::int64_t width, float* to) {
  base_kernels().convert_tile({.src = from,
                               .src_type = type,
                               .stride = stride,
                               .transposed = true,
                               .rows = depth,
                               .cols = count,
                               .dst = to,
                               .ld = width,
                               .pad = true,
                               .f64 = false});
}

void pack_rows(const std::byte* from, DType type, std::int64_t stride, std::int64_t count,
               std::int64_t depth, std::int64_t width, float* to) {
  base_kernels().convert_tile({.src = from,
                               .src_type = type,
                               .stride = stride,
                               .transposed = false,
                               .rows = count,
                               .cols = depth,
                               .dst = to,
                               .ld = width,
                               .pad = true,
                               .f64 = false});
}

void pack_pair_rows(const std::byte* from, std::int64_t stride, std::int64_t count,
                    std::int64_t depth, std::int64_t width, float* to) {
  const auto* low = reinterpret_cast<const std::uint16_t*>(from);
  auto* out = reinterpret_cast<std::uint32_t*>(to);
  for (std::int64_t n = 0; n < count; n += 2, low += 2 * stride, out += width) {
    const std::uint16_t* high = low + stride;
    if (n + 1 < count) {
      for (std::int64_t d = 0; d < depth; ++d) out[d] = low[d] | std::uint32_t{high[d]} << 16;
    } else {
      for (std::int64_t d = 0; d < depth; ++d) out[d] = low[d];
    }
    std::fill(out + depth, out + width, 0u);
  }
}

}  // namespace gossamer::detail
