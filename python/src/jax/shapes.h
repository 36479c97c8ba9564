#pragma once

// The operations of the third backend, `Shapes`: they check the shapes and types of their arrays by
// the checks with which the operations of the other backends begin, and do no more. The handlers
// find them by the type of their last argument.

#include <cstdint>
#include <optional>

#include "gossamer/detail/activation_checks.h"
#include "gossamer/detail/attention_checks.h"
#include "gossamer/detail/csr_attention_checks.h"
#include "gossamer/detail/mask_checks.h"
#include "gossamer/detail/product_checks.h"
#include "jax/frame.h"

namespace gossamer::python::ffi {

template <class Sparse>
void linear(const TensorView& x, const Sparse& w, const TensorView& out, const Epilogue& epilogue,
            Shapes /*only*/) {
  (void)detail::check_linear(detail::Checker("linear"), x, detail::describe(w), out, epilogue);
}
template <class Sparse>
void spmm(const Sparse& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, Shapes /*only*/) {
  const detail::SparseInfo info = detail::describe(a);
  (void)detail::check_spmm(detail::Checker("spmm"), info, b, out, transpose_a, epilogue);
}
template <class Sparse>
void sddmm(const TensorView& a, const TensorView& b, const Sparse& pattern, const TensorView& out,
           bool /*accumulate*/, Shapes /*only*/) {
  detail::check_sddmm(detail::Checker("sddmm"), a, b, pattern, out);
}
inline void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Nm& w,
                            const Gradients& gradients, Shapes /*only*/) {
  (void)detail::check_linear_backward(detail::Checker("linear_backward"), dy, x,
                                      detail::describe(w), {"values", w.values()}, gradients);
}

inline void sparse_linear(const TensorView& x, const TensorView& wt, const Threshold& threshold,
                          const TensorView& out, const Epilogue& epilogue, Shapes /*only*/) {
  const detail::Checker check("sparse_linear");
  (void)detail::check_sparse_linear(check, x, wt, threshold, out, epilogue);
}
inline void delta_linear(const TensorView& x, const TensorView& wt, const DeltaState& state,
                         const Threshold& threshold, const TensorView& out,
                         const TensorView& /*sent*/, bool /*refresh*/, const Epilogue& epilogue,
                         Shapes /*only*/) {
  const detail::Checker check("delta_linear");
  (void)detail::check_delta_linear(check, x, wt, state, threshold, out, epilogue);
}
inline void gated_mlp(const TensorView& x, const TensorView& w_gate, const TensorView& w_up,
                      const TensorView& w_down_t, const Threshold& threshold, const TensorView& out,
                      const GatedMlpOptions& options, Shapes /*only*/) {
  const detail::Checker check("gated_mlp");
  (void)detail::check_gated_mlp(check, x, w_gate, w_up, w_down_t, threshold, out, options);
}
inline void gather_decode(const TensorView& indices, const TensorView& values,
                          const TensorView& table, const TensorView& out,
                          const std::optional<TensorView>& bias, Shapes /*only*/) {
  const detail::Checker check("gather_decode");
  (void)detail::check_gather_decode(check, indices, values, table, out, bias);
}
inline void gather_decode_backward(const TensorView& dy, const TensorView& indices,
                                   const TensorView& values, const TensorView& table,
                                   const std::optional<TensorView>& dvalues,
                                   const std::optional<TensorView>& dtable, Shapes /*only*/) {
  const detail::Checker check("gather_decode_backward");
  (void)detail::check_gather_decode_backward(check, dy, indices, values, table, dvalues, dtable);
}
inline void topk_rows(const TensorView& x, std::int64_t k, const std::optional<TensorView>& key,
                      const prune::SelectOptions& /*options*/, const TensorView& values,
                      const TensorView& indices, Shapes /*only*/) {
  detail::check_topk_rows(detail::Checker("topk_rows"), x, k, key, values, indices);
}
inline void topk_rows_backward(const TensorView& dy, const TensorView& indices,
                               const TensorView& out, Shapes /*only*/) {
  const detail::Checker check("topk_rows_backward");
  (void)detail::check_topk_rows_backward(check, dy, indices, out);
}

inline void attention(const TensorView& q, const TensorView& k, const TensorView& v,
                      const BlockLayout& layout, const AttentionOptions& options,
                      const TensorView& o, const TensorView& lse, Shapes /*only*/) {
  const detail::Checker check("attention");
  auto sizes = detail::check_attention_operands(check, q, k, v, layout, options);
  detail::check_attention_options(check, sizes, q, layout, options, !sizes.packed);
  detail::check_attention_results(check, sizes, options, q, k, v, o, lse);
}
inline void attention_backward(const AttentionGradient& gradient, const TensorView& q,
                               const TensorView& k, const TensorView& v, const BlockLayout& layout,
                               const AttentionOptions& options, const AttentionGradients& gradients,
                               Shapes /*only*/) {
  const detail::Checker check("attention_backward");
  auto sizes = detail::check_attention_operands(check, q, k, v, layout, options);
  detail::check_attention_options(check, sizes, q, layout, options, !sizes.packed);
  detail::check_attention_gradients(check, sizes, options, gradient, q, k, v, gradients,
                                    !sizes.packed);
}
inline void attention_decode(const TensorView& q, const TensorView& k, const TensorView& v,
                             const DecodeKeys& keys, const AttentionOptions& options,
                             const TensorView& o, const TensorView& lse, Shapes /*only*/) {
  const detail::Checker check("attention_decode");
  (void)detail::check_attention_decode(check, q, k, v, keys, options, o, lse);
}
inline void attention_block_pool(const TensorView& x, std::int64_t block, PoolMode /*mode*/,
                                 const TensorView& out, Shapes /*only*/) {
  detail::check_block_pool(detail::Checker("block_pool"), x, block, out);
}
inline void attention_block_topk(const TensorView& q, const TensorView& pooled,
                                 const std::optional<TensorView>& pooled_min,
                                 const BlockTopkOptions& options, const TensorView& indices,
                                 Shapes /*only*/) {
  detail::check_block_topk(detail::Checker("block_topk"), q, pooled, pooled_min, options, indices);
}
inline void csr_attention(const TensorView& q, const TensorView& k, const TensorView& v,
                          const CsrPattern& pattern, const TensorView& o, const TensorView& lse,
                          const CsrAttentionOptions& options, Shapes /*only*/) {
  const detail::Checker check("csr_attention");
  (void)detail::check_csr_attention(check, q, k, v, pattern, o, lse, options);
}
inline void csr_attention_backward(const TensorView& grad, const TensorView& q, const TensorView& k,
                                   const TensorView& v, const TensorView& o, const TensorView& lse,
                                   const CsrPattern& pattern, const TensorView& dq,
                                   const TensorView& dk, const TensorView& dv,
                                   const std::optional<TensorView>& dbias,
                                   const std::optional<TensorView>& dlse,
                                   const CsrAttentionOptions& options, Shapes /*only*/) {
  const detail::Checker check("csr_attention_backward");
  (void)detail::check_csr_attention_backward(check, grad, q, k, v, o, lse, pattern, dq, dk, dv,
                                             dbias, dlse, options);
}
inline void csr_softmax(const CsrPattern& pattern, const TensorView& x, const TensorView& out,
                        Shapes /*only*/) {
  detail::check_csr_softmax(detail::Checker("csr_softmax"), pattern, x, out);
}
inline void csr_softmax_backward(const CsrPattern& pattern, const TensorView& y,
                                 const TensorView& dy, const TensorView& dx, Shapes /*only*/) {
  const detail::Checker check("csr_softmax_backward");
  detail::check_csr_softmax_backward(check, pattern, y, dy, dx);
}

}  // namespace gossamer::python::ffi
