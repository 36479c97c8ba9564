#include "attention/csr/csr_edges.h"
#include "attention/csr/kernels/csr_attention.cuh"
#include "base/runtime.h"
#include "gossamer/cuda.h"

namespace gossamer::cuda {

void csr_attention(const TensorView& q, const TensorView& k, const TensorView& v,
                   const CsrPattern& pattern, const TensorView& o, const TensorView& lse,
                   const CsrAttentionOptions& options, Stream stream) {
  const detail::Checker check("csr_attention", DeviceType::cuda);
  const detail::AttentionProblem problem =
      detail::check_csr_attention(check, q, k, v, pattern, o, lse, options);
  const CsrView view = pattern_of(check, "pattern", pattern);
  if (lse.numel() == 0) return;
  const DeviceGuard guard(pattern.device());
  const detail::HeadTensor result = detail::head_tensor(o, true);
  const bool vectors = problem.score.gat ? vectors_fit({problem.v, result})
                                         : vectors_fit({problem.q, problem.k, problem.v, result});
  const std::int64_t pairs = problem.batches * problem.heads;
  with_edge_vectors(q.dtype, vectors, [&]<class T, int V>(T, std::integral_constant<int, V>) {
    const CsrAttentionArgs<T> args{.lists = {.indptr = view.indptr,
                                             .indices = view.indices,
                                             .permutation = nullptr,
                                             .rows = static_cast<int>(problem.queries),
                                             .others = static_cast<int>(problem.keys),
                                             .stacks = problem.patterns,
                                             .cut = long_edges(view.nnz, view.rows, problem.keys)},
                                   .pairs = pairs,
                                   .heads = problem.heads,
                                   .group = problem.group,
                                   .q = edge_rows<const T>(problem.q),
                                   .k = edge_rows<const T>(problem.k),
                                   .v = edge_rows<const T>(problem.v),
                                   .o = edge_rows<T>(result),
                                   .lse = static_cast<Sum<T>*>(lse.data),
                                   .score = edge_scores<T>(problem),
                                   .depth = problem.q.depth,
                                   .depth_v = problem.v.depth,
                                   .log_group = edge_lanes(problem.q.depth, problem.v.depth, V, 2)};
    launch(csr_attention_rows<T, V>, edge_grid(problem.queries, pairs, problem.v.depth),
           dim3(kEdgeThreads), 0, stream, args);
  });
}

}  // namespace gossamer::cuda
