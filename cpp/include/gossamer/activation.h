#pragma once

#include <cstdint>
#include <optional>

#include "gossamer/products.h"
#include "gossamer/tensor.h"

namespace gossamer {

// Layers that leave out the weights of channels whose activations are small. All operands of a call
// have one floating type; sums are kept in float32 (float64 for float64), each in an order that
// depends neither on the number of threads nor on the run. Rows of operands may be strided; their
// last stride is 1. `out` is written only after all checks have passed.

/// Which activations pass: those with |v| ≥ value, or ≥ channels[k] in channel k where channels are
/// given. A NaN passes, so that it reaches the result.
struct Threshold {
  double value = 0.0;
  /// [K], float32 or of the operands' type, in place of `value`.
  std::optional<TensorView> channels = {};
};

/// out [..., M] = activation(Σ_k x[..., k]·wt[k] + bias [+ out]) over the channels k that pass for
/// at least one token, with x [..., K] and wt [K, M]. Rows of wt of other channels are not read.
void sparse_linear(const TensorView& x, const TensorView& wt, const Threshold& threshold,
                   const TensorView& out, const Epilogue& epilogue = {});

struct GatedMlpOptions {
  Activation activation = Activation::silu;
  /// Bounds of Activation::clamp.
  double lo = 0.0, hi = 0.0;
};

/// out [..., d] = Σ_i a_i·u_i·w_down_t[i] over the channels i whose a passes for at least one
/// token, with a = activation(x·w_gateᵀ), u = x·w_upᵀ, x [..., d] and all weights [h, d]. Rows of
/// w_up and w_down_t of other channels are not read. a and u are not rounded to the operands' type.
void gated_mlp(const TensorView& x, const TensorView& w_gate, const TensorView& w_up,
               const TensorView& w_down_t, const Threshold& threshold, const TensorView& out,
               const GatedMlpOptions& options = {});

/// What delta_linear keeps between the steps of a stream; zeros before the first. Contiguous
/// float32 (float64 with float64).
struct DeltaState {
  TensorView last;  // [..., K]: what each channel sent last
  TensorView sums;  // [..., M]: last·wt
};

/// out [..., M] = activation(sums + bias), after the channels k have sent their changes that differ
/// from what they sent last by a number that passes, for at least one token: sums +=
/// (x[..., k] - last[..., k])·wt[k], last[..., k] = x[..., k]. Rows of wt of other channels are not
/// read. With `refresh`, or where a change is not finite, sums = last·wt is computed anew, from the
/// rows of channels that are not zero: the rounding errors of the steps before are gone, and so is
/// a NaN that the stream no longer has. Returns how many channels have sent. What is thrown after
/// the checks leaves the state as zeros.
std::int64_t delta_linear(const TensorView& x, const TensorView& wt, const DeltaState& state,
                          const Threshold& threshold, const TensorView& out, bool refresh = false,
                          const Epilogue& epilogue = {});

/// out [..., d] = Σ_i values[..., i]·table[indices[..., i]] + bias, with indices (int32 or int64)
/// and values [..., k], table [h, d] and bias [d]. Indices may repeat.
void gather_decode(const TensorView& indices, const TensorView& values, const TensorView& table,
                   const TensorView& out, const std::optional<TensorView>& bias = {});

/// The gradients of gather_decode from that of its result, dy [..., d]; each is contiguous and
/// computed where it is given. dvalues[..., i] = dy·table[indices[..., i]], and
/// dtable[r] = Σ values[t, i]·dy[t] over the entries with indices[t, i] = r, in their order.
void gather_decode_backward(const TensorView& dy, const TensorView& indices,
                            const TensorView& values, const TensorView& table,
                            const std::optional<TensorView>& dvalues,
                            const std::optional<TensorView>& dtable);

/// The gradient of the rows that prune::topk_rows selects from, out [..., F], from that of its
/// values, dy [..., k]: zeros but for out[..., indices[..., i]] = dy[..., i].
void topk_rows_backward(const TensorView& dy, const TensorView& indices, const TensorView& out);

}  // namespace gossamer
