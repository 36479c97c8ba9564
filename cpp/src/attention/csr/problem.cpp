#include "attention/csr/problem.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/buffer.h"
#include "base/work.h"

namespace gossamer::detail {
namespace {

std::string text(std::int64_t n) { return std::to_string(n); }

std::size_t index(int axis) { return static_cast<std::size_t>(axis); }

/// The axis of the heads, or -1.
int head_axis(const TensorView& view, bool with_depth) {
  const int leading = view.rank - (with_depth ? 1 : 0);
  return leading == 1 ? -1 : leading - 1;
}

/// Shape of a result for each head: the leading axes of `like`, which end with rows and heads, then
/// `depth`.
TensorView result_shape(const TensorView& like, std::int64_t depth, bool like_has_depth) {
  TensorView shape = like;
  shape.rank = like.rank - (like_has_depth ? 1 : 0);
  shape.shape[index(shape.rank++)] = depth;
  return shape;
}

void check_same(const Checker& check, const Argument& array, const TensorView& expected) {
  const TensorView& view = array.view;
  if (view.rank == expected.rank &&
      std::equal(view.shape.begin(), view.shape.begin() + view.rank, expected.shape.begin())) {
    return;
  }
  check.value_error(std::string(array.name) + ".shape is " + shape_string(view) + ", expected " +
                    shape_string(expected));
}

void check_bias(const Checker& check, const TensorView& bias, const AttentionProblem& problem,
                int leading) {
  const Argument argument{"bias", bias};
  check.dtype(argument, problem.q.type, "q");
  check.device(argument, problem.pattern.device(), "q");
  const int most = problem.patterns == 1 ? leading : 1;
  if (bias.rank < 1 || bias.rank > most) {
    check.value_error("bias.ndim is " + text(bias.rank) + ", expected 1" +
                      (most > 1 ? " to " + text(most) : std::string()));
  }
  check.extent(argument, bias.rank - 1, problem.pattern.nnz(), "the pattern's nnz");
  if (bias.rank > 1) check.extent(argument, bias.rank - 2, problem.heads, "q's heads");
  if (bias.rank > 2) check.extent(argument, 0, problem.batches, "q.shape[0]");
  check.contiguous(argument);
}

}  // namespace

HeadTensor head_tensor(const TensorView& view, bool with_depth) {
  const int leading = view.rank - (with_depth ? 1 : 0);
  HeadTensor tensor{.data = view.data,
                    .type = view.dtype,
                    .batches = 1,
                    .rows = 0,
                    .heads = 1,
                    .depth = with_depth ? view.shape[index(view.rank - 1)] : 1,
                    .batch_stride = 0,
                    .row_stride = 0,
                    .head_stride = 0};
  tensor.head_stride = tensor.depth;
  int axis = 0;
  if (leading == 3) {
    tensor.batches = view.shape[0];
    tensor.batch_stride = view.strides[0];
    axis = 1;
  }
  tensor.rows = view.shape[index(axis)];
  tensor.row_stride = view.strides[index(axis)];
  if (leading > 1) {
    tensor.heads = view.shape[index(axis + 1)];
    tensor.head_stride = view.strides[index(axis + 1)];
  }
  return tensor;
}

EdgeScore AttentionProblem::score_of(std::int64_t batch, std::int64_t head) const {
  EdgeScore shifted = score;
  if (score.bias != nullptr) {
    shifted.bias = static_cast<const std::byte*>(score.bias) +
                   (batch * bias_batch + head * score.bias_head) * size_of(q.type);
  }
  return shifted;
}

bool AttentionProblem::is_large(std::int64_t rows) const {
  return static_cast<double>(rows) * static_cast<double>(k.depth + v.depth) *
             static_cast<double>(size_of(q.type)) >
         static_cast<double>(kRowsOfB);
}

AttentionProblem check_attention(const Checker& check, const TensorView& q, const TensorView& k,
                                 const TensorView& v, const CsrPattern& pattern,
                                 const CsrAttentionOptions& options) {
  const bool gat = options.score == CsrAttentionOptions::Score::gat;
  check.floating({"q", q});
  check.dtype({"k", k}, q.dtype, "q");
  check.dtype({"v", v}, q.dtype, "q");
  check.device({"q", q}, pattern.device(), "pattern");
  check.device({"k", k}, pattern.device(), "pattern");
  check.device({"v", v}, pattern.device(), "pattern");
  const int depth_axis = gat ? 0 : 1;
  if (q.rank < 1 + depth_axis || q.rank > 3 + depth_axis) {
    check.value_error("q.ndim is " + text(q.rank) + ", expected " + text(1 + depth_axis) + " to " +
                      text(3 + depth_axis));
  }
  check.rank({"k", k}, {q.rank});
  check.rank({"v", v}, {q.rank + 1 - depth_axis});
  if (!gat) {
    check.layout({"q", q});
    check.layout({"k", k});
  }
  check.layout({"v", v});
  const int leading = q.rank - depth_axis;
  const int rows = leading == 3 ? 1 : 0;
  if (leading == 3) {
    check.extent({"k", k}, 0, q.shape[0], "q.shape[0]");
    check.extent({"v", v}, 0, q.shape[0], "q.shape[0]");
  }
  check.extent({"k", k}, rows, pattern.cols(), "pattern.shape[1]");
  check.extent({"v", v}, rows, pattern.cols(), "pattern.shape[1]");
  if (!gat) check.extent({"k", k}, k.rank - 1, q.shape[index(q.rank - 1)], "q's depth");
  const int heads = head_axis(q, !gat);
  if (heads >= 0) {
    const std::int64_t of_q = q.shape[index(heads)], of_k = k.shape[index(heads)];
    if (of_q != of_k && (of_k == 0 || of_q % of_k != 0)) {
      check.value_error("k.shape[" + text(heads) + "] is " + text(of_k) +
                        ", expected a divisor of q.shape[" + text(heads) + "] = " + text(of_q));
    }
    check.extent({"v", v}, heads, of_k, "k's heads");
  }
  AttentionProblem problem{.q = head_tensor(q, !gat),
                           .k = head_tensor(k, !gat),
                           .v = head_tensor(v, true),
                           .pattern = pattern,
                           .batches = 1,
                           .heads = 1,
                           .group = 1,
                           .queries = 0,
                           .keys = pattern.cols(),
                           .patterns = 1,
                           .score = {},
                           .bias_batch = 0,
                           .has_depth = !gat};
  problem.batches = problem.q.batches;
  problem.heads = problem.q.heads;
  problem.queries = problem.q.rows;
  if (problem.k.heads > 0) problem.group = problem.heads / problem.k.heads;
  if (pattern.rows() != problem.queries) {
    const std::int64_t all = problem.batches * problem.heads;
    std::int64_t stacked = 0;
    for (const std::int64_t n : {problem.heads, all}) {
      if (n > 0 && !__builtin_mul_overflow(n, problem.queries, &stacked) &&
          pattern.rows() == stacked) {
        problem.patterns = n;
      }
    }
    if (problem.patterns == 1) {
      check.value_error("pattern.shape[0] is " + text(pattern.rows()) + ", expected " +
                        text(problem.queries) + ", or as many for each of " + text(problem.heads) +
                        " heads or " + text(all) + " heads of all batches");
    }
  }
  const double depth = static_cast<double>(std::max<std::int64_t>(problem.q.depth, 1));
  problem.score = {.gat = gat,
                   .scale = options.scale.value_or(gat ? 1.0 : 1.0 / std::sqrt(depth)),
                   .slope = options.slope,
                   .bias = nullptr,
                   .bias_head = 0};
  if (!std::isfinite(problem.score.scale)) {
    check.value_error("scale is " + std::to_string(problem.score.scale) +
                      ", expected a finite number");
  }
  if (!std::isfinite(options.slope)) {
    check.value_error("slope is " + std::to_string(options.slope) + ", expected a finite number");
  }
  if (options.bias) {
    check_bias(check, *options.bias, problem, leading);
    problem.score.bias = options.bias->data;
    if (options.bias->rank > 1) problem.score.bias_head = pattern.nnz();
    if (options.bias->rank > 2) problem.bias_batch = problem.heads * pattern.nnz();
  }
  return problem;
}

void check_result(const Checker& check, const Argument& out, const TensorView& like,
                  std::int64_t depth, bool like_has_depth) {
  check.dtype(out, like.dtype, "q");
  check.device(out, like.device, "q");
  check_same(check, out, result_shape(like, depth, like_has_depth));
  check.layout(out);
}

void check_lse(const Checker& check, const Argument& lse, const AttentionProblem& problem,
               int leading) {
  const DType real = problem.q.type == DType::f64 ? DType::f64 : DType::f32;
  if (lse.view.dtype != real) {
    check.type_error(std::string(lse.name) + ".dtype is " + name_of(lse.view.dtype) +
                     ", expected " + name_of(real));
  }
  check.device(lse, problem.pattern.device(), "q");
  TensorView expected;
  if (leading == 3) expected.shape[index(expected.rank++)] = problem.batches;
  if (leading > 1) expected.shape[index(expected.rank++)] = problem.heads;
  expected.shape[index(expected.rank++)] = problem.queries;
  check_same(check, lse, expected);
  check.contiguous(lse);
}

void check_writable(const Checker& check, const Argument& out,
                    std::initializer_list<Argument> inputs) {
  // The check wants the longest strides first.
  TensorView sorted = out.view;
  for (int d = 1; d < sorted.rank; ++d) {
    for (int e = d; e > 0 && sorted.strides[index(e)] > sorted.strides[index(e - 1)]; --e) {
      std::swap(sorted.strides[index(e)], sorted.strides[index(e - 1)]);
      std::swap(sorted.shape[index(e)], sorted.shape[index(e - 1)]);
    }
  }
  check.writable({out.name, sorted}, inputs);
}

void use_huge_pages_for(const TensorView& out) {
  if (is_contiguous(out)) ask_for_huge_pages(out.data, out.numel() * size_of(out.dtype));
}

StackCut::StackCut(const RowPointers& indptr, std::int64_t stacks, std::int64_t rows,
                   std::int64_t pieces)
    : pieces_(pieces) {
  constexpr std::int64_t kRowCost = 4;  // of a row beside its entries, in entries
  bounds_.reserve(static_cast<std::size_t>(stacks * (pieces + 1)));
  for (std::int64_t stack = 0; stack < stacks; ++stack) {
    const std::int64_t first = stack * rows, last = first + rows;
    const auto cost = [&](std::int64_t row) {
      return indptr[row] - indptr[first] + kRowCost * (row - first);
    };
    for (std::int64_t piece = 0; piece <= pieces; ++piece) {
      const std::int64_t target = cost(last) / pieces * piece;
      std::int64_t low = piece == 0 ? first : bounds_.back();
      std::int64_t high = last;
      if (piece == pieces) low = last;
      while (low < high) {
        const std::int64_t middle = low + (high - low) / 2;
        if (cost(middle) < target) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      bounds_.push_back(low);
    }
  }
}

std::int64_t pieces_of(std::int64_t units, std::int64_t entries) {
  const std::int64_t wanted = ceil_div(std::int64_t{8} * num_threads(), units);
  return std::clamp<std::int64_t>(std::max(wanted, entries / kTaskElements), 1,
                                  std::max<std::int64_t>(entries / 256, 1));
}

}  // namespace gossamer::detail
