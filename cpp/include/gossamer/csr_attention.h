#pragma once

#include <optional>

#include "gossamer/csr.h"
#include "gossamer/tensor.h"

namespace gossamer {

// Attention in which query i sees the keys j of the entries (i, j) of a CSR pattern: unstructured
// masks and graphs. A row without entries, or all of whose scores are -infinity, gives o = 0, lse =
// -infinity and zero gradients. Sums are taken in float32 (float64 for float64), in an order that
// depends neither on the number of threads nor on the run.

/// out [..., nnz] = softmax of x [..., nnz] over the entries of each row of the pattern, for each
/// of the leading indices. Both are contiguous and of one floating type.
void csr_softmax(const CsrPattern& pattern, const TensorView& x, const TensorView& out);

/// dx = y·(dy - Σ y·dy) over the entries of each row, with y what csr_softmax gave; all [..., nnz].
void csr_softmax_backward(const CsrPattern& pattern, const TensorView& y, const TensorView& dy,
                          const TensorView& dx);

struct CsrAttentionOptions {
  /// dot: scale·⟨q_i, k_j⟩. gat: scale·leaky(q_i + k_j), where q and k are single numbers a head
  /// and leaky(x) is x for x > 0, else slope·x (Velickovic et al., 2018).
  enum class Score : std::uint8_t { dot, gat } score = Score::dot;
  /// By default 1/√D, or 1 for gat.
  std::optional<double> scale = {};
  double slope = 0.2;
  /// Added to the scores: [nnz] for all heads, [H, nnz] or [B, H, nnz]; q's type.
  std::optional<TensorView> bias = {};
};

/// o_i = Σ_j w_ij·v_j with w_ij = e^(s_ij - lse_i), lse_i = log Σ_j e^(s_ij) over the entries (i,
/// j) of the pattern.
///
/// q [B, M, H, D], k [B, N, H', D], v [B, N, H', Dv], o [B, M, H, Dv] have one floating type and
/// any strides but for the last axis, which is contiguous; H' divides H, and head h has the keys
/// and values of head h/(H/H'). B, or B and H, may be left out of all of them. For Score::gat, q
/// and k have no axis D. lse [B, H, M] is contiguous, float32 (float64 for float64).
///
/// The pattern is [M, N], the same for all, or [H·M, N] or [B·H·M, N]: those of the heads one below
/// the other.
void csr_attention(const TensorView& q, const TensorView& k, const TensorView& v,
                   const CsrPattern& pattern, const TensorView& o, const TensorView& lse,
                   const CsrAttentionOptions& options = {});

/// The gradients dq, dk, dv and, where given, dbias, which have the shapes and types of q, k, v and
/// bias, from that of o, `grad`, and where given that of lse, `dlse`. The arguments between are
/// those and the results of csr_attention. Scores are computed anew, twice; what is kept beside the
/// operands is [B, H, M] and, for dbias, [B, H, nnz].
void csr_attention_backward(const TensorView& grad, const TensorView& q, const TensorView& k,
                            const TensorView& v, const TensorView& o, const TensorView& lse,
                            const CsrPattern& pattern, const TensorView& dq, const TensorView& dk,
                            const TensorView& dv, const std::optional<TensorView>& dbias = {},
                            const std::optional<TensorView>& dlse = {},
                            const CsrAttentionOptions& options = {});

}  // namespace gossamer
