#include "attention/block/problem.h"

#include <algorithm>
#include <string>

#include "base/kernels.h"
#include "base/levels.h"
#include "base/work.h"

namespace gossamer::detail {
namespace {

/// What they hold, on a CPU.
std::vector<std::int32_t> read_starts(const Checker& check, const Argument& starts,
                                      std::int64_t tokens) {
  const auto* given = static_cast<const std::int32_t*>(starts.view.data);
  const auto n = static_cast<std::size_t>(starts.view.shape[0]);
  std::vector<std::int32_t> at(given, given + n);
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
    : shape(pattern.shape()), block(pattern.block()), layout(pattern), options(given) {
  sizes = check_attention_operands(check, q_view, k_view, v_view, pattern, given);
  packed = sizes.packed;
  heads = sizes.heads;
  key_heads = sizes.key_heads;
  group = sizes.group;
  depth = sizes.depth;
  value_depth = sizes.value_depth;
  value_width = round_up(value_depth, kKeyUnit);
  tokens = sizes.tokens;
  if (packed) {
    const std::vector<std::int32_t> qs = read_starts(check, {"cu_seqlens", *given.cu_q}, tokens);
    const std::vector<std::int32_t> ks =
        read_starts(check, {"cu_seqlens_k", *given.cu_k}, sizes.key_tokens);
    for (std::size_t b = 0; b + 1 < qs.size(); ++b) {
      sequences.push_back({.queries = qs[b + 1] - qs[b],
                           .keys = ks[b + 1] - ks[b],
                           .first_query = qs[b],
                           .first_key = ks[b]});
      sizes.longest = std::max(sizes.longest, sequences.back().queries);
      sizes.longest_keys = std::max(sizes.longest_keys, sequences.back().keys);
    }
  } else {
    sequences.assign(
        static_cast<std::size_t>(sizes.batch),
        {.queries = sizes.longest, .keys = sizes.longest_keys, .first_query = 0, .first_key = 0});
  }
  longest = sizes.longest;
  longest_keys = sizes.longest_keys;
  check_attention_options(check, sizes, q_view, pattern, given, true);
  q = operand(q_view);
  k = operand(k_view);
  v = operand(v_view);
  device = q_view.device;
  limited = given.causal || given.before || given.after;
  rule = {.scale = sizes.scale,
          .softcap = static_cast<float>(given.softcap.value_or(0)),
          .bias_type = given.bias ? given.bias->dtype : DType::f32};
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

bool multiplies_pairs(const Operand& x, std::int64_t depth) {
  return adds_bf16_products() && x.type == DType::bf16 && depth % 2 == 0 && x.row % 2 == 0 &&
         x.head % 2 == 0 && x.batch % 2 == 0 && reinterpret_cast<std::uintptr_t>(x.data) % 4 == 0;
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
