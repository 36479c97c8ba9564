// The gradients of csr_attention in two passes: by rows of the pattern dq, by its columns, which
// the transposed pattern lists, dk and dv. Each sum has one thread and a fixed order.

#include <algorithm>
#include <cstring>
#include <vector>

#include "attention/csr/kernels.h"
#include "attention/csr/packed_rows.h"
#include "attention/csr/problem.h"
#include "base/floats.h"
#include "base/index.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "gossamer/csr_attention.h"

namespace gossamer {
using namespace detail;
namespace {

std::byte* at(void* data, std::int64_t bytes) { return static_cast<std::byte*>(data) + bytes; }

/// The transposes of the patterns that lie one below the other; those of the heads that share keys
/// are one pattern, of the queries of all of them.
class Transposes {
 public:
  explicit Transposes(const AttentionProblem& problem)
      : count_(problem.patterns == 1 ? 1 : problem.patterns / problem.group),
        item_(size_of(problem.pattern.index_dtype())),
        keys_(problem.keys),
        starts_{problem.pattern.indptr().data, problem.pattern.index_dtype() == DType::i64},
        queries_(problem.patterns == 1 ? problem.queries : problem.group * problem.queries),
        indptr_(count_ * (problem.keys + 1) * item_),
        indices_(problem.pattern.nnz() * item_),
        permutation_(problem.pattern.nnz() * item_) {
    const double work = 4.0 * static_cast<double>(problem.pattern.nnz());
    for_tasks(count_, work, [&](std::int64_t stack) { transpose(problem, stack); });
  }

  [[nodiscard]] std::int64_t count() const { return count_; }

  /// The first entry of pattern `stack`.
  [[nodiscard]] std::int64_t first(std::int64_t stack) const { return starts_[stack * queries_]; }
  [[nodiscard]] void* indptr(std::int64_t stack) const {
    return indptr_.data() + stack * (keys_ + 1) * item_;
  }
  [[nodiscard]] void* indices(std::int64_t stack) const {
    return indices_.data() + first(stack) * item_;
  }
  [[nodiscard]] void* permutation(std::int64_t stack) const {
    return permutation_.data() + first(stack) * item_;
  }

 private:
  void transpose(const AttentionProblem& problem, std::int64_t stack) const {
    const CsrPattern& all = problem.pattern;
    const DType index = all.index_dtype();
    const std::int64_t row0 = stack * queries_, begin = first(stack),
                       nnz = starts_[row0 + queries_] - begin;
    const Scratch shifted(problem.patterns == 1 ? 0 : (queries_ + 1) * item_);
    void* indptr_data = all.indptr().data;
    if (problem.patterns > 1) {
      indptr_data = shifted.data();
      with_index_type(index, [&](auto type) {
        using I = decltype(type);
        const auto* from = static_cast<const I*>(all.indptr().data) + row0;
        auto* to = static_cast<I*>(indptr_data);
        for (std::int64_t i = 0; i <= queries_; ++i) to[i] = static_cast<I>(from[i] - from[0]);
      });
    }
    const CsrPattern pattern(make_view(indptr_data, index, {queries_ + 1}),
                             make_view(at(all.indices().data, begin * item_), index, {nnz}),
                             queries_, keys_, Csr::Check::trust);
    csr_transpose(pattern, make_view(indptr(stack), index, {keys_ + 1}),
                  make_view(indices(stack), index, {nnz}),
                  make_view(permutation(stack), index, {nnz}));
  }

  std::int64_t count_, item_, keys_;
  RowPointers starts_;
  std::int64_t queries_;
  Scratch indptr_, indices_, permutation_;
};

/// out[o, p] = Σ_r parts[r, o, p], as the type of `out`; parts are Real.
template <class T>
void add_parts(const T* parts, std::int64_t rounds, std::int64_t size, const TensorView& out) {
  constexpr std::int64_t kPart = 4096;
  for_tasks(ceil_div(size, kPart), static_cast<double>(rounds) * static_cast<double>(size),
            [&](std::int64_t task) {
              const std::int64_t begin = task * kPart, n = std::min(kPart, size - begin);
              const Scratch sums(n * static_cast<std::int64_t>(sizeof(T)));
              auto* sum = sums.as<T>();
              std::copy_n(parts + begin, n, sum);
              for (std::int64_t r = 1; r < rounds; ++r) {
                const T* part = parts + r * size + begin;
                for (std::int64_t p = 0; p < n; ++p) sum[p] += part[p];
              }
              narrow(sum, n, at(out.data, begin * size_of(out.dtype)), out.dtype);
            });
}

/// The rows of the heads that share keys, one head below the other.
class HeadsBelow {
 public:
  HeadsBelow(const HeadTensor& x, std::int64_t batch, std::int64_t head, std::int64_t heads,
             bool wanted)
      : rows_(rows_of(x, batch, head, heads)),
        copy_(wanted ? heads * x.rows * x.depth * size_of(x.type) : 0) {
    if (!wanted) return;
    const std::int64_t bytes = x.depth * size_of(x.type);
    std::byte* to = copy_.data();
    for (std::int64_t h = head; h < head + heads; ++h) {
      const std::byte* from = x.at(batch, h);
      for (std::int64_t i = 0; i < x.rows; ++i, to += bytes) {
        std::copy_n(from + i * x.row_stride * size_of(x.type), bytes, to);
      }
    }
    rows_ = {.data = copy_.data(), .row = x.depth, .head = x.depth};
  }
  [[nodiscard]] const HeadRows& rows() const noexcept { return rows_; }

 private:
  HeadRows rows_;
  Scratch copy_;
};

}  // namespace

void csr_attention_backward(const TensorView& grad, const TensorView& q, const TensorView& k,
                            const TensorView& v, const TensorView& o, const TensorView& lse,
                            const CsrPattern& pattern, const TensorView& dq, const TensorView& dk,
                            const TensorView& dv, const std::optional<TensorView>& dbias,
                            const std::optional<TensorView>& dlse,
                            const CsrAttentionOptions& options) {
  const FloatEnvironment floats;
  const AttentionProblem problem =
      check_csr_attention_backward(Checker("csr_attention_backward"), grad, q, k, v, o, lse,
                                   pattern, dq, dk, dv, dbias, dlse, options);
  for (const TensorView& out : {dq, dk, dv}) use_huge_pages_for(out);
  const std::int64_t real = problem.real(), nnz = pattern.nnz(), heads = problem.heads;
  const HeadTensor grads = head_tensor(grad, true), outs = head_tensor(o, true);
  const HeadTensor dqs = head_tensor(dq, problem.has_depth), dvs = head_tensor(dv, true);
  const HeadTensor dks = head_tensor(dk, problem.has_depth);
  const std::int64_t depth = problem.q.depth, depth_v = problem.v.depth;
  const Scratch delta(problem.batches * heads * problem.queries * real);
  const std::int64_t sets = problem.batches * heads / std::max<std::int64_t>(problem.patterns, 1);
  const Scratch parts(dbias ? sets * nnz * real : 0);
  const bool wide = pattern.index_dtype() == DType::i64;
  const RowPointers starts{pattern.indptr().data, wide};
  const std::int64_t per_head = nnz / std::max<std::int64_t>(problem.patterns, 1);
  const double work = static_cast<double>(per_head + 4 * (problem.queries + problem.keys)) *
                      static_cast<double>(problem.batches * heads) *
                      (4 + 0.1 * static_cast<double>(depth + depth_v));

  /// What both passes of a unit, some heads of a batch, have in common.
  const auto common = [&](std::int64_t batch, std::int64_t head) {
    const std::int64_t before = (batch * heads + head) * problem.queries * real;
    return CsrAttentionBackwardArgs{.columns = false,
                                    .wide = wide,
                                    .indptr = nullptr,
                                    .indices = nullptr,
                                    .permutation = nullptr,
                                    .row0 = 0,
                                    .row1 = 0,
                                    .row_base = 0,
                                    .type = q.dtype,
                                    .x = {},
                                    .y = {},
                                    .other_x = {},
                                    .other_y = {},
                                    .o = {},
                                    .score = problem.score_of(batch, head),
                                    .heads = 1,
                                    .group = 1,
                                    .depth = depth,
                                    .depth_v = depth_v,
                                    .lse = at(lse.data, before),
                                    .dlse = dlse ? at(dlse->data, before) : nullptr,
                                    .delta = delta.data() + before,
                                    .lse_head = problem.queries,
                                    .dx = nullptr,
                                    .dx_row = 0,
                                    .dx_head = 0,
                                    .dy = nullptr,
                                    .dy_row = 0,
                                    .dy_head = 0,
                                    .g = nullptr,
                                    .g_head = 0,
                                    .prefetch = false,
                                    .scratch = nullptr};
  };

  if (problem.batches * heads > 0 && problem.queries > 0) {
    const bool by_rows = detail::by_rows(problem);
    const std::int64_t together = by_rows ? heads : 1;
    const std::int64_t units = problem.batches * heads / together;
    const StackCut cut({pattern.indptr().data, wide}, problem.patterns, problem.queries,
                       pieces_of(units, per_head));
    for_tasks(units * cut.pieces(), work, [&](std::int64_t task) {
      const std::int64_t unit = task / cut.pieces(), piece = task % cut.pieces();
      const std::int64_t batch = unit * together / heads, head = unit * together % heads;
      const std::int64_t kv_head = head / problem.group;
      const std::int64_t kv_heads = by_rows ? problem.k.heads : 1;
      const std::int64_t stack = problem.pattern_of(batch, head);
      const Scratch scratch(2 * (depth + depth_v) * real);
      CsrAttentionBackwardArgs args = common(batch, head);
      const std::int64_t row0 = cut.begin(stack, piece), row1 = cut.begin(stack, piece + 1);
      const bool packed = together == 1 && real == size_of(q.dtype) &&
                          copies_pay(starts[row1] - starts[row0], problem.keys);
      const PackedRows k_rows(rows_of(problem.k, batch, kv_head, kv_heads), q.dtype, problem.keys,
                              depth, packed && problem.k.row_stride != depth);
      const PackedRows v_rows(rows_of(problem.v, batch, kv_head, kv_heads), q.dtype, problem.keys,
                              depth_v, packed && problem.v.row_stride != depth_v);
      args.indptr = pattern.indptr().data;
      args.indices = pattern.indices().data;
      args.row0 = row0;
      args.row1 = row1;
      args.row_base = stack * problem.queries;
      args.x = rows_of(problem.q, batch, head, together);
      args.y = rows_of(grads, batch, head, together);
      args.other_x = k_rows.rows();
      args.other_y = v_rows.rows();
      args.o = rows_of(outs, batch, head, together);
      args.heads = together;
      args.group = by_rows ? problem.group : 1;
      args.dx = dqs.at(batch, head);
      args.dx_row = dqs.row_stride;
      args.dx_head = dqs.head_stride;
      if (dbias) {
        const std::int64_t set = problem.patterns == 1       ? batch * heads + head
                                 : problem.patterns == heads ? batch
                                                             : 0;
        args.g = parts.data() + set * nnz * real;
        args.g_head = nnz;
      }
      args.prefetch = is_large(problem, problem.keys);
      args.scratch = scratch.data();
      csr_attention_kernels().csr_attention_backward(args);
    });
  }

  if (problem.batches * problem.k.heads > 0 && problem.keys > 0) {
    const Transposes transposes(problem);
    const bool by_rows = heads > 1 && problem.patterns == 1 && is_large(problem, problem.queries) &&
                         problem.q.heads_together() && grads.heads_together();
    const std::int64_t kv_heads = problem.k.heads, together = by_rows ? kv_heads : 1;
    // Heads of a unit; those with patterns of their own are one, with the queries of all.
    const bool below = problem.patterns > 1 && problem.group > 1;
    const std::int64_t used = below ? 1 : together * problem.group;
    const std::int64_t queries = below ? problem.group * problem.queries : problem.queries;
    const std::int64_t units = problem.batches * kv_heads / together;
    const std::int64_t pieces = pieces_of(units, per_head);
    std::vector<StackCut> cuts;
    for (std::int64_t stack = 0; stack < transposes.count(); ++stack) {
      cuts.emplace_back(RowPointers{transposes.indptr(stack), wide}, 1, problem.keys, pieces);
    }
    for_tasks(units * pieces, work, [&](std::int64_t task) {
      const std::int64_t unit = task / pieces, piece = task % pieces;
      const std::int64_t batch = unit * together / kv_heads;
      const std::int64_t kv_head = unit * together % kv_heads, head = kv_head * problem.group;
      const std::int64_t stack = problem.pattern_of(batch, head) / (below ? problem.group : 1);
      const StackCut& cut = cuts[static_cast<std::size_t>(stack)];
      const Scratch scratch(2 * (depth + depth_v) * real);
      CsrAttentionBackwardArgs args = common(batch, head);
      const RowPointers lists{transposes.indptr(stack), wide};
      const std::int64_t row0 = cut.begin(0, piece), row1 = cut.begin(0, piece + 1);
      const bool packed =
          used == 1 && real == size_of(q.dtype) && copies_pay(lists[row1] - lists[row0], queries);
      const std::int64_t members = below ? problem.group : used;
      const HeadsBelow all_q(problem.q, batch, head, members, below);
      const HeadsBelow all_grads(grads, batch, head, members, below);
      const PackedRows q_rows(all_q.rows(), q.dtype, queries, depth,
                              packed && !below && problem.q.row_stride != depth);
      const PackedRows grad_rows(all_grads.rows(), q.dtype, queries, depth_v,
                                 packed && !below && grads.row_stride != depth_v);
      args.columns = true;
      args.indptr = transposes.indptr(stack);
      args.indices = transposes.indices(stack);
      args.permutation = transposes.permutation(stack);
      if (args.score.bias != nullptr) {
        args.score.bias = static_cast<const std::byte*>(args.score.bias) +
                          transposes.first(stack) * size_of(q.dtype);
      }
      args.row0 = row0;
      args.row1 = row1;
      args.x = rows_of(problem.k, batch, kv_head, together);
      args.y = rows_of(problem.v, batch, kv_head, together);
      args.other_x = q_rows.rows();
      args.other_y = grad_rows.rows();
      args.heads = used;
      args.group = below ? 1 : problem.group;
      args.dx = dks.at(batch, kv_head);
      args.dx_row = dks.row_stride;
      args.dx_head = dks.head_stride;
      args.dy = dvs.at(batch, kv_head);
      args.dy_row = dvs.row_stride;
      args.dy_head = dvs.head_stride;
      args.prefetch = is_large(problem, problem.queries) &&
                      (used == 1 || (problem.q.heads_together() && grads.heads_together()));
      args.scratch = scratch.data();
      csr_attention_kernels().csr_attention_backward(args);
    });
  }

  if (dbias && dbias->numel() > 0) {
    const std::int64_t size = dbias->numel(), rounds = sets * nnz / size;
    if (rounds == 0) {
      std::memset(dbias->data, 0, static_cast<std::size_t>(size * size_of(dbias->dtype)));
    } else if (real == 8) {
      add_parts(parts.as<const double>(), rounds, size, *dbias);
    } else {
      add_parts(parts.as<const float>(), rounds, size, *dbias);
    }
  }
}

}  // namespace gossamer
