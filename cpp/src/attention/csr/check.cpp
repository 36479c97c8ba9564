#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "gossamer/detail/csr_attention_checks.h"
#include "gossamer/detail/shown.h"

namespace gossamer::detail {
namespace {

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

/// Throws unless `out` has the shape and the type of `x`, a set of the pattern's values, is
/// contiguous and apart from what is read.
void check_out(const Checker& check, const CsrPattern& pattern, const Argument& x,
               const Argument& out) {
  check.dtype(out, x.view.dtype, x.name);
  check.device(out, pattern.device(), "a");
  check.same_shape(out, x);
  check.contiguous(out);
  check.writable(out, {x, {"a.indices", pattern.indices()}, {"a.indptr", pattern.indptr()}});
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

namespace {

AttentionProblem check_csr_operands(const Checker& check, const TensorView& q, const TensorView& k,
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
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();  // kernels read int32
  for (const auto& [name, extent] :
       {std::pair{"q", q.shape[index(rows)]}, {"k", k.shape[index(rows)]}}) {
    if (extent > kMost) {
      check.value_error(std::string(name) + ".shape[" + text(rows) + "] is " + text(extent) +
                        ", expected less than 2**31");
    }
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
  for (const auto& [name, x] :
       {std::pair{"scale", problem.score.scale}, {"slope", problem.score.slope}}) {
    // Scores are float32 but for float64, and so must their factors be.
    if (std::isfinite(q.dtype == DType::f64 ? x : static_cast<double>(static_cast<float>(x)))) {
      continue;
    }
    check.value_error(std::string(name) + " is " + shown(x) + ", expected a finite number" +
                      (std::isfinite(x) ? " of float32" : ""));
  }
  if (options.bias) {
    check_bias(check, *options.bias, problem, leading);
    problem.score.bias = options.bias->data;
    if (options.bias->rank > 1) problem.score.bias_head = pattern.nnz();
    if (options.bias->rank > 2) problem.bias_batch = problem.heads * pattern.nnz();
  }
  return problem;
}

void check_csr_result(const Checker& check, const Argument& out, const TensorView& like,
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

void check_csr_writable(const Checker& check, const Argument& out,
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

}  // namespace

void check_csr_softmax(const Checker& check, const CsrPattern& pattern, const TensorView& x,
                       const TensorView& out) {
  pattern.check_values(x);
  check.device({"a.values", x}, x.device, "a");
  check_out(check, pattern, {"a.values", x}, {"out", out});
}

void check_csr_softmax_backward(const Checker& check, const CsrPattern& pattern,
                                const TensorView& y, const TensorView& dy, const TensorView& dx) {
  pattern.check_values(y);
  check.device({"p.values", y}, y.device, "p");
  check.dtype({"grad", dy}, y.dtype, "p");
  check.device({"grad", dy}, pattern.device(), "p");
  check.same_shape({"grad", dy}, {"p.values", y});
  check.contiguous({"grad", dy});
  check_out(check, pattern, {"p.values", y}, {"out", dx});
  check.writable({"out", dx}, {{"grad", dy}});
}

AttentionProblem check_csr_attention(const Checker& check, const TensorView& q, const TensorView& k,
                                     const TensorView& v, const CsrPattern& pattern,
                                     const TensorView& o, const TensorView& lse,
                                     const CsrAttentionOptions& options) {
  const AttentionProblem problem = check_csr_operands(check, q, k, v, pattern, options);
  const int leading = q.rank - (problem.has_depth ? 1 : 0);
  check_csr_result(check, {"out", o}, q, problem.v.depth, problem.has_depth);
  check_lse(check, {"lse", lse}, problem, leading);
  for (const Argument& out : {Argument{"out", o}, Argument{"lse", lse}}) {
    check_csr_writable(check, out,
                       {{"q", q},
                        {"k", k},
                        {"v", v},
                        {"pattern.indices", pattern.indices()},
                        {"pattern.indptr", pattern.indptr()}});
    if (options.bias) check_csr_writable(check, out, {{"bias", *options.bias}});
  }
  check_csr_writable(check, {"lse", lse}, {{"out", o}});
  return problem;
}

AttentionProblem check_csr_attention_backward(
    const Checker& check, const TensorView& grad, const TensorView& q, const TensorView& k,
    const TensorView& v, const TensorView& o, const TensorView& lse, const CsrPattern& pattern,
    const TensorView& dq, const TensorView& dk, const TensorView& dv,
    const std::optional<TensorView>& dbias, const std::optional<TensorView>& dlse,
    const CsrAttentionOptions& options) {
  const AttentionProblem problem = check_csr_operands(check, q, k, v, pattern, options);
  const int leading = q.rank - (problem.has_depth ? 1 : 0);
  check_csr_result(check, {"o", o}, q, problem.v.depth, problem.has_depth);
  check_csr_result(check, {"grad", grad}, q, problem.v.depth, problem.has_depth);
  check_lse(check, {"lse", lse}, problem, leading);
  if (dlse) check_lse(check, {"dlse", *dlse}, problem, leading);
  if (dbias && !options.bias) check.value_error("dbias is given, expected a bias");
  const auto check_gradient = [&](const Argument& out, const Argument& like) {
    check.dtype(out, like.view.dtype, like.name);
    check.device(out, pattern.device(), "q");
    check.same_shape(out, like);
    check_csr_writable(check, out,
                       {{"grad", grad},
                        {"q", q},
                        {"k", k},
                        {"v", v},
                        {"o", o},
                        {"lse", lse},
                        {"pattern.indices", pattern.indices()},
                        {"pattern.indptr", pattern.indptr()}});
    if (options.bias) check_csr_writable(check, out, {{"bias", *options.bias}});
    if (dlse) check_csr_writable(check, out, {{"dlse", *dlse}});
  };
  check_gradient({"dq", dq}, {"q", q});
  check_gradient({"dk", dk}, {"k", k});
  check_gradient({"dv", dv}, {"v", v});
  check_csr_writable(check, {"dk", dk}, {{"dq", dq}});
  check_csr_writable(check, {"dv", dv}, {{"dq", dq}, {"dk", dk}});
  if (problem.has_depth) {
    check.layout({"dq", dq});
    check.layout({"dk", dk});
  }
  check.layout({"dv", dv});
  if (dbias) {
    check_gradient({"dbias", *dbias}, {"bias", *options.bias});
    check.contiguous({"dbias", *dbias});
    check_csr_writable(check, {"dbias", *dbias}, {{"dq", dq}, {"dk", dk}, {"dv", dv}});
  }
  return problem;
}

}  // namespace gossamer::detail
