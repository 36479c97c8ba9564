#pragma once

// What the layers with sparse activations ask of their arguments, on whatever device.

#include <cstdint>
#include <optional>

#include "gossamer/activation.h"
#include "gossamer/detail/check.h"

namespace gossamer::detail {

/// Operand and result of a layer as matrices [tokens, ·], as Checker::tokens gives them.
struct Tokens {
  TensorView from, to;
};

/// `threshold` for `channels` channels, which `what` names, of operands of type `dtype`.
void check_threshold(const Checker& check, const Threshold& threshold, std::int64_t channels,
                     const char* what, DType dtype, Device device, const TensorView& out);

[[nodiscard]] Tokens check_sparse_linear(const Checker& check, const TensorView& x,
                                         const TensorView& wt, const Threshold& threshold,
                                         const TensorView& out, const Epilogue& epilogue);

[[nodiscard]] Tokens check_gated_mlp(const Checker& check, const TensorView& x,
                                     const TensorView& w_gate, const TensorView& w_up,
                                     const TensorView& w_down_t, const Threshold& threshold,
                                     const TensorView& out, const GatedMlpOptions& options);

[[nodiscard]] Tokens check_delta_linear(const Checker& check, const TensorView& x,
                                        const TensorView& wt, const DeltaState& state,
                                        const Threshold& threshold, const TensorView& out,
                                        const Epilogue& epilogue);

/// Operands and result of gather_decode as matrices [tokens, ·], as above. Whether indices are in
/// range is not looked at.
struct Decoding {
  TensorView indices, values, out;
};

[[nodiscard]] Decoding check_gather_decode(const Checker& check, const TensorView& indices,
                                           const TensorView& values, const TensorView& table,
                                           const TensorView& out,
                                           const std::optional<TensorView>& bias);
/// `out` of the result is dy.
[[nodiscard]] Decoding check_gather_decode_backward(const Checker& check, const TensorView& dy,
                                                    const TensorView& indices,
                                                    const TensorView& values,
                                                    const TensorView& table,
                                                    const std::optional<TensorView>& dvalues,
                                                    const std::optional<TensorView>& dtable);

/// `values` of the result is dy.
[[nodiscard]] Decoding check_topk_rows_backward(const Checker& check, const TensorView& dy,
                                                const TensorView& indices, const TensorView& out);

}  // namespace gossamer::detail
