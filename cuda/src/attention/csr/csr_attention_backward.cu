#include <algorithm>

#include "attention/csr/csr_edges.h"
#include "attention/csr/kernels/csr_attention_backward.cuh"
#include "base/carver.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"

namespace gossamer::cuda {
namespace {

struct Parts {
  void* delta;
  CsrTransposed transposed;
  void* scratch;
  void* sets;
};

/// `places`: queries of all heads of all batches.
Parts carve(const CsrView& a, std::int64_t places, std::int64_t real, bool with_dbias,
            Carver& carver) {
  Parts parts{};
  parts.delta = carver.take_bytes(places * real);
  parts.transposed = {.indptr = carver.take<int>(a.cols + 1),
                      .indices = carver.take<int>(a.nnz),
                      .values = nullptr,
                      .permutation = carver.take<int>(a.nnz)};
  parts.scratch = carver.take_bytes(transpose_workspace(a));
  const std::int64_t sets = places / std::max<std::int64_t>(a.rows, 1);
  parts.sets = carver.take_bytes(with_dbias ? sets * a.nnz * real : 0);
  return parts;
}

CsrView sizes_of(const CsrPattern& a) {
  return {.indptr = nullptr,
          .indices = nullptr,
          .values = nullptr,
          .dtype = DType::f32,
          .rows = a.rows(),
          .cols = a.cols(),
          .nnz = a.nnz()};
}

template <class T, int V>
void run(const CsrAttentionBackwardArgs<T>& args, std::int64_t columns, Stream stream) {
  launch(csr_attention_lists<T, V>, edge_grid(args.lists.rows, args.pairs, columns),
         dim3(kEdgeThreads), 0, stream, args);
}

}  // namespace

std::int64_t csr_attention_backward_workspace(const TensorView& q, const CsrPattern& pattern,
                                              const CsrAttentionOptions& options, bool with_dbias) {
  const int leading = q.rank - (options.score == CsrAttentionOptions::Score::gat ? 0 : 1);
  std::int64_t places = 1;
  for (int d = 0; d < leading; ++d) places *= q.shape[static_cast<std::size_t>(d)];
  Carver carver(nullptr);
  static_cast<void>(
      carve(sizes_of(pattern), places, q.dtype == DType::f64 ? 8 : 4, with_dbias, carver));
  return carver.used();
}

void csr_attention_backward(const TensorView& grad, const TensorView& q, const TensorView& k,
                            const TensorView& v, const TensorView& o, const TensorView& lse,
                            const CsrPattern& pattern, const TensorView& dq, const TensorView& dk,
                            const TensorView& dv, const std::optional<TensorView>& dbias,
                            const std::optional<TensorView>& dlse,
                            const CsrAttentionOptions& options, const TensorView& workspace,
                            Stream stream) {
  const detail::Checker check("csr_attention_backward", DeviceType::cuda);
  const detail::AttentionProblem problem = detail::check_csr_attention_backward(
      check, grad, q, k, v, o, lse, pattern, dq, dk, dv, dbias, dlse, options);
  const CsrView view = pattern_of(check, "pattern", pattern);
  check.workspace(workspace, pattern.device(),
                  csr_attention_backward_workspace(q, pattern, options, dbias.has_value()));
  const DeviceGuard guard(pattern.device());
  const std::int64_t pairs = problem.batches * problem.heads;
  const std::int64_t key_pairs = problem.batches * problem.k.heads;
  Carver carver(workspace.data);
  const Parts parts =
      carve(view, pairs * problem.queries, problem.real(), dbias.has_value(), carver);
  const bool gat = problem.score.gat;
  const detail::HeadTensor grads = detail::head_tensor(grad, true);
  const detail::HeadTensor outs = detail::head_tensor(o, true);
  const detail::HeadTensor dqs = detail::head_tensor(dq, !gat), dks = detail::head_tensor(dk, !gat);
  const detail::HeadTensor dvs = detail::head_tensor(dv, true);
  bool vectors = vectors_fit({problem.v, grads, outs, dvs});
  if (!gat) vectors = vectors && vectors_fit({problem.q, problem.k, dqs, dks});
  const std::int64_t columns = std::max(problem.q.depth, problem.v.depth);
  const bool any_keys = key_pairs * problem.keys > 0;
  if (any_keys) transpose(view, parts.transposed, parts.scratch, stream);
  with_edge_vectors(q.dtype, vectors, [&]<class T, int V>(T, std::integral_constant<int, V>) {
    CsrAttentionBackwardArgs<T> args{
        .columns = false,
        .lists = {.indptr = view.indptr,
                  .indices = view.indices,
                  .permutation = nullptr,
                  .rows = static_cast<int>(problem.queries),
                  .others = static_cast<int>(problem.keys),
                  .stacks = problem.patterns,
                  .cut = long_edges(view.nnz, view.rows, problem.keys)},
        .pairs = pairs,
        .heads = problem.heads,
        .group = problem.group,
        .queries = problem.queries,
        .x = edge_rows<const T>(problem.q),
        .y = edge_rows<const T>(grads),
        .other_x = edge_rows<const T>(problem.k),
        .other_y = edge_rows<const T>(problem.v),
        .o = edge_rows<const T>(outs),
        .dx = edge_rows<T>(dqs),
        .dy = edge_rows<T>(dqs),
        .lse = static_cast<const Sum<T>*>(lse.data),
        .dlse = dlse ? static_cast<const Sum<T>*>(dlse->data) : nullptr,
        .delta = static_cast<Sum<T>*>(parts.delta),
        .g = dbias ? static_cast<Sum<T>*>(parts.sets) : nullptr,
        .nnz = view.nnz,
        .score = edge_scores<T>(problem),
        .depth = problem.q.depth,
        .depth_v = problem.v.depth,
        .log_group = edge_lanes(problem.q.depth, problem.v.depth, V, 3)};
    if (lse.numel() > 0) run<T, V>(args, columns, stream);
    if (dbias && dbias->numel() > 0) {
      const std::int64_t size = dbias->numel();
      const std::int64_t all = pairs / std::max<std::int64_t>(problem.patterns, 1) * view.nnz;
      launch(csr_add_sets<T>, dim3(grid_x(ceil_div(size, kAddSetsThreads))), dim3(kAddSetsThreads),
             0, stream,
             CsrAddSetsArgs<T>{.sets = static_cast<const Sum<T>*>(parts.sets),
                               .count = all / size,
                               .size = size,
                               .out = static_cast<T*>(dbias->data)});
    }
    if (!any_keys) return;
    args.columns = true;
    args.lists = {.indptr = parts.transposed.indptr,
                  .indices = parts.transposed.indices,
                  .permutation = parts.transposed.permutation,
                  .rows = static_cast<int>(problem.keys),
                  .others = static_cast<int>(problem.queries),
                  .stacks = problem.patterns,
                  .cut = long_edges(view.nnz, problem.keys * problem.patterns, problem.queries)};
    args.pairs = key_pairs;
    args.x = edge_rows<const T>(problem.k);
    args.y = edge_rows<const T>(problem.v);
    args.other_x = edge_rows<const T>(problem.q);
    args.other_y = edge_rows<const T>(grads);
    args.dx = edge_rows<T>(dks);
    args.dy = edge_rows<T>(dvs);
    args.g = nullptr;
    run<T, V>(args, columns, stream);
  });
}

}  // namespace gossamer::cuda
