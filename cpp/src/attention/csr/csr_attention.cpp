
#include "gossamer/csr_attention.h"

#include "attention/csr/kernels.h"
#include "attention/csr/problem.h"
#include "base/floats.h"
#include "base/scratch.h"

namespace gossamer {
using namespace detail;

void csr_attention(const TensorView& q, const TensorView& k, const TensorView& v,
                   const CsrPattern& pattern, const TensorView& o, const TensorView& lse,
                   const CsrAttentionOptions& options) {
  const FloatEnvironment floats;
  const Checker check("csr_attention");
  const AttentionProblem problem = check_attention(check, q, k, v, pattern, options);
  const int leading = q.rank - (problem.has_depth ? 1 : 0);
  check_result(check, {"out", o}, q, problem.v.depth, problem.has_depth);
  check_lse(check, {"lse", lse}, problem, leading);
  for (const Argument& out : {Argument{"out", o}, Argument{"lse", lse}}) {
    check_writable(check, out,
                   {{"q", q},
                    {"k", k},
                    {"v", v},
                    {"pattern.indices", pattern.indices()},
                    {"pattern.indptr", pattern.indptr()}});
    if (options.bias) check_writable(check, out, {{"bias", *options.bias}});
  }
  check_writable(check, {"lse", lse}, {{"out", o}});
  if (lse.numel() == 0) return;

  const HeadTensor result = head_tensor(o, true);
  const bool by_rows = problem.by_rows();
  const std::int64_t heads = by_rows ? problem.heads : 1;
  const std::int64_t units = problem.batches * problem.heads / heads;
  const std::int64_t per_unit = pattern.nnz() / problem.patterns;
  const StackCut cut({pattern.indptr().data, pattern.index_dtype() == DType::i64}, problem.patterns,
                     problem.queries, pieces_of(units, per_unit));
  const double entries = static_cast<double>(per_unit + 4 * problem.queries) *
                         static_cast<double>(problem.batches * problem.heads);
  const double work = entries * (2 + 0.05 * static_cast<double>(problem.q.depth + problem.v.depth));
  for_tasks(units * cut.pieces(), work, [&](std::int64_t task) {
    const std::int64_t unit = task / cut.pieces(), piece = task % cut.pieces();
    const std::int64_t batch = unit * heads / problem.heads, head = unit * heads % problem.heads;
    const std::int64_t kv_head = head / problem.group;
    const std::int64_t kv_heads = by_rows ? problem.k.heads : 1;
    const std::int64_t stack = problem.pattern_of(batch, head);
    const Scratch scratch((problem.q.depth + problem.v.depth) * problem.real());
    csr_attention_kernels().csr_attention(
        {.wide = pattern.index_dtype() == DType::i64,
         .indptr = pattern.indptr().data,
         .indices = pattern.indices().data,
         .row0 = cut.begin(stack, piece),
         .row1 = cut.begin(stack, piece + 1),
         .row_base = stack * problem.queries,
         .type = q.dtype,
         .q = problem.q.rows_of(batch, head, heads),
         .k = problem.k.rows_of(batch, kv_head, kv_heads),
         .v = problem.v.rows_of(batch, kv_head, kv_heads),
         .score = problem.score_of(batch, head),
         .heads = heads,
         .group = by_rows ? problem.group : 1,
         .depth = problem.q.depth,
         .depth_v = problem.v.depth,
         .o = result.at(batch, head),
         .o_row = result.row_stride,
         .o_head = result.head_stride,
         .lse = static_cast<std::byte*>(lse.data) +
                (batch * problem.heads + head) * problem.queries * problem.real(),
         .lse_head = problem.queries,
         .prefetch = problem.is_large(problem.keys) &&
                     (heads == 1 || (problem.k.heads_together() && problem.v.heads_together())),
         .scratch = scratch.data()});
  });
}

}  // namespace gossamer
