#pragma once

// What the bindings of attention share.

#include <cstdint>
#include <optional>

#include "base/call.h"
#include "gossamer/attention.h"

namespace gossamer::python {

using Number = std::optional<std::int64_t>;

/// The arrays of AttentionOptions, which live as long as the call.
template <class Backend>
struct OptionArrays {
  OptionArrays(Call<Backend>& call, py::handle bias_array, py::handle sinks_array,
               py::handle starts, py::handle key_starts)
      : bias(call.read_optional(bias_array, "bias")),
        sinks(call.read_optional(sinks_array, "sinks")),
        cu_q(call.read_optional(starts, "cu_seqlens")),
        cu_k(call.read_optional(key_starts, "cu_seqlens_k")) {}

  [[nodiscard]] AttentionOptions options(bool causal, Number before, Number after, Number q_offset,
                                         std::optional<double> scale,
                                         std::optional<double> softcap) const {
    return {.causal = causal,
            .before = before,
            .after = after,
            .q_offset = q_offset,
            .scale = scale,
            .softcap = softcap,
            .bias = view_of(bias),
            .sinks = view_of(sinks),
            .cu_q = view_of(cu_q),
            .cu_k = view_of(cu_k)};
  }

  std::optional<Import> bias, sinks, cu_q, cu_k;
};

/// The shapes of o and lse. Where q or v has another number of axes, the operation says so.
inline Shape result_shape(const TensorView& q, const TensorView& v) {
  Shape shape;
  shape.append(q, 0, q.rank > 0 ? q.rank - 1 : 0);
  shape.push_back(v.rank > 0 ? v.shape[static_cast<std::size_t>(v.rank) - 1] : 1);
  return shape;
}

inline Shape lse_shape(const TensorView& q, bool packed) {
  const auto& s = q.shape;
  if (packed) return {q.rank > 1 ? s[1] : 1, q.rank > 0 ? s[0] : 1};
  return {s[0], q.rank > 2 ? s[2] : 1, q.rank > 1 ? s[1] : 1};
}

}  // namespace gossamer::python
