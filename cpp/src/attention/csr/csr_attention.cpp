
#include "gossamer/csr_attention.h"

#include "attention/csr/kernels.h"
#include "attention/csr/packed_rows.h"
#include "attention/csr/problem.h"
#include "base/floats.h"
#include "base/kernels.h"
#include "base/scratch.h"

namespace gossamer {
using namespace detail;

void csr_attention(const TensorView& q, const TensorView& k, const TensorView& v,
                   const CsrPattern& pattern, const TensorView& o, const TensorView& lse,
                   const CsrAttentionOptions& options) {
  const FloatEnvironment floats;
  const AttentionProblem problem =
      check_csr_attention(Checker("csr_attention"), q, k, v, pattern, o, lse, options);
  if (lse.numel() == 0) return;
  use_huge_pages_for(o);

  const HeadTensor result = head_tensor(o, true);
  const bool by_rows = detail::by_rows(problem);
  const std::int64_t heads = by_rows ? problem.heads : 1;
  const std::int64_t units = problem.batches * problem.heads / heads;
  const std::int64_t per_unit = pattern.nnz() / problem.patterns;
  const StackCut cut({pattern.indptr().data, pattern.index_dtype() == DType::i64}, problem.patterns,
                     problem.queries, pieces_of(units, per_unit));
  const double entries = static_cast<double>(per_unit + 4 * problem.queries) *
                         static_cast<double>(problem.batches * problem.heads);
  const double work = entries * (2 + 0.05 * static_cast<double>(problem.q.depth + problem.v.depth));
  const RowPointers indptr{pattern.indptr().data, pattern.index_dtype() == DType::i64};
  const bool half = size_of(q.dtype) == 2;
  const std::int64_t real = problem.real(), depth = problem.q.depth, depth_v = problem.v.depth;
  const bool apart = problem.k.row_stride != depth || problem.v.row_stride != depth_v;
  for_tasks(units * cut.pieces(), work, [&](std::int64_t task) {
    const std::int64_t unit = task / cut.pieces(), piece = task % cut.pieces();
    const std::int64_t batch = unit * heads / problem.heads, head = unit * heads % problem.heads;
    const std::int64_t kv_head = head / problem.group;
    const std::int64_t kv_heads = by_rows ? problem.k.heads : 1;
    const std::int64_t stack = problem.pattern_of(batch, head);
    const std::int64_t row0 = cut.begin(stack, piece), row1 = cut.begin(stack, piece + 1);
    const std::int64_t first = indptr[row0], own = indptr[row1] - first, rows = row1 - row0;
    const std::int64_t query = row0 - stack * problem.queries;
    // Copies make a task of 16-bit operands one of floats, its results and bias included.
    const bool packed = heads == 1 && (half || apart) && copies_pay(own, problem.keys);
    const bool widened = packed && half;
    const PackedRows k_rows(rows_of(problem.k, batch, kv_head, kv_heads), q.dtype, problem.keys,
                            depth, packed);
    const PackedRows v_rows(rows_of(problem.v, batch, kv_head, kv_heads), q.dtype, problem.keys,
                            depth_v, packed);
    HeadRows q_rows = rows_of(problem.q, batch, head, heads);
    q_rows.data =
        static_cast<const std::byte*>(q_rows.data) + query * q_rows.row * size_of(q.dtype);
    const PackedRows own_q(q_rows, q.dtype, rows, depth, widened);
    EdgeScore score = problem.score_of(batch, head);
    const Scratch bias(widened && score.bias != nullptr ? own * 4 : 0);
    if (widened && score.bias != nullptr) {
      widen(static_cast<const std::byte*>(score.bias) + first * 2, q.dtype, own, bias.data());
      score.bias = bias.data() - first * 4;
    }
    std::byte* o_rows = result.at(batch, head) + query * result.row_stride * size_of(q.dtype);
    const Scratch wide_o(widened ? rows * depth_v * 4 : 0);
    const Scratch scratch((depth + depth_v) * real);
    csr_attention_kernels().csr_attention(
        {.wide = indptr.wide,
         .indptr = pattern.indptr().data,
         .indices = pattern.indices().data,
         .row0 = row0,
         .row1 = row1,
         .row_base = row0,
         .type = widened ? DType::f32 : q.dtype,
         .q = own_q.rows(),
         .k = k_rows.rows(),
         .v = v_rows.rows(),
         .score = score,
         .heads = heads,
         .group = by_rows ? problem.group : 1,
         .depth = depth,
         .depth_v = depth_v,
         .o = widened ? wide_o.data() : o_rows,
         .o_row = widened ? depth_v : result.row_stride,
         .o_head = widened ? 0 : result.head_stride,
         .lse = static_cast<std::byte*>(lse.data) +
                ((batch * problem.heads + head) * problem.queries + query) * real,
         .lse_head = problem.queries,
         .prefetch = is_large(problem, problem.keys),
         .scratch = scratch.data()});
    if (!widened) return;
    base_kernels().store_tile({.tile = wide_o.data(),
                               .ld = depth_v,
                               .rows = rows,
                               .cols = depth_v,
                               .out = o_rows,
                               .out_type = q.dtype,
                               .stride = result.row_stride,
                               .transposed = false,
                               .bias = nullptr,
                               .bias_by_row = false,
                               .activation = Activation::none,
                               .lo = 0,
                               .hi = 0,
                               .accumulate = false,
                               .f64 = false});
  });
}

}  // namespace gossamer
