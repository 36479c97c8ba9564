#include "gossamer/attention.h"

#include <cstdint>
#include <optional>
#include <vector>

#include "gossamer/csr_attention.h"
#include "gossamer/cuda.h"
#include "gossamer/layout.h"
#include "jax/frame.h"
#include "jax/handlers.h"
#include "jax/shapes.h"

namespace gossamer::python::ffi {
namespace {

// The operations of CPUs have the same names and are found by the types of their arguments: those
// of GPUs take a stream more, and most a workspace before it.
using cuda::attention, cuda::attention_backward, cuda::attention_block_pool,
    cuda::attention_block_topk, cuda::attention_decode, cuda::csr_attention,
    cuda::csr_attention_backward, cuda::csr_softmax, cuda::csr_softmax_backward;

/// The operands and results of a call, taken one after the other.
class Reader {
 public:
  Reader(const Frame& frame, int batch_axes) : frame_(frame), axes_(batch_axes) {}

  Operand operand() { return {frame_.argument(arguments_++), axes_, frame_}; }
  std::optional<Operand> operand_if(bool there) {
    return there ? std::optional(operand()) : std::nullopt;
  }
  Operand result() { return {frame_.result(results_++), axes_, frame_}; }
  std::optional<Operand> result_if(bool there) {
    return there ? std::optional(result()) : std::nullopt;
  }

 private:
  const Frame& frame_;
  int axes_, arguments_ = 0, results_ = 0;
};

using Extents = std::vector<std::int64_t>;

std::optional<TensorView> at(const std::optional<Operand>& operand, std::int64_t place,
                             const Extents& extents) {
  return operand.has_value() ? std::optional(operand->at(place, extents)) : std::nullopt;
}

void collect(std::vector<const Operand*>& operands, const std::optional<Operand>& operand) {
  if (operand.has_value()) operands.push_back(&*operand);
}

/// q, k, v, the layout's arrays and the options of attention.
template <class Backend>
struct BlockArguments {
  BlockArguments(const ForeignCall<Backend>& call, Reader& reader)
      : frame(call),
        q(reader.operand()),
        k(reader.operand()),
        v(reader.operand()),
        indptr(reader.operand()),
        indices(reader.operand()),
        kinds(reader.operand_if(call.flag("has_kinds"))),
        bits(reader.operand_if(call.flag("has_bits"))),
        bias(reader.operand_if(call.flag("has_bias"))),
        sinks(reader.operand_if(call.flag("has_sinks"))),
        cu_q(reader.operand_if(call.flag("has_starts"))),
        cu_k(reader.operand_if(call.flag("has_starts"))) {}

  [[nodiscard]] std::vector<const Operand*> operands() const {
    std::vector<const Operand*> all{&q, &k, &v, &indptr, &indices};
    for (const auto* operand : {&kinds, &bits, &bias, &sinks, &cu_q, &cu_k}) collect(all, *operand);
    return all;
  }
  [[nodiscard]] BlockLayout layout(std::int64_t place, const Extents& extents) const {
    return frame.template checked<BlockLayout>(
        indptr.at(place, extents), indices.at(place, extents), at(kinds, place, extents),
        at(bits, place, extents),
        LayoutShape{.batch = frame.integer("batch"),
                    .heads = frame.integer("heads"),
                    .rows = frame.integer("rows"),
                    .cols = frame.integer("cols")},
        LayoutBlock{.rows = frame.integer("block_rows"), .cols = frame.integer("block_cols")});
  }
  [[nodiscard]] AttentionOptions options(std::int64_t place, const Extents& extents) const {
    return {.causal = frame.flag("causal"),
            .before = frame.optional_integer("before"),
            .after = frame.optional_integer("after"),
            .q_offset = frame.optional_integer("q_offset"),
            .scale = frame.optional_real("scale"),
            .softcap = frame.optional_real("softcap"),
            .bias = at(bias, place, extents),
            .sinks = at(sinks, place, extents),
            .cu_q = at(cu_q, place, extents),
            .cu_k = at(cu_k, place, extents)};
  }

  const ForeignCall<Backend>& frame;
  Operand q, k, v, indptr, indices;
  std::optional<Operand> kinds, bits, bias, sinks, cu_q, cu_k;
};

template <class Backend>
struct Attention {
  static constexpr const char* kName = "attention";
  /// (o, lse) of (q, k, v, layout, options).
  static void run(const ForeignCall<Backend>& frame) {
    Reader reader(frame, frame.batch_axes(frame.argument(3)));
    const BlockArguments<Backend> given(frame, reader);
    const Operand o = reader.result(), lse = reader.result();
    const Extents extents = extents_of(given.operands());
    for_each(extents, [&](std::int64_t place) {
      const BlockLayout layout = given.layout(place, extents);
      const std::int64_t workspace = frame.workspace(
          [](const auto&... operands) { return cuda::attention_workspace(operands...); }, layout);
      frame.run(workspace, [&](const auto&... queue) {
        attention(given.q.at(place, extents), given.k.at(place, extents),
                  given.v.at(place, extents), layout, given.options(place, extents),
                  o.at(place, extents), lse.at(place, extents), queue...);
      });
    });
  }
};

template <class Backend>
struct AttentionBackward {
  static constexpr const char* kName = "attention_backward";
  /// (dq, dk, dv, dbias if there is a bias, dsinks if there are sinks) of (do, dlse, o, lse, and
  /// what attention takes).
  static void run(const ForeignCall<Backend>& frame) {
    Reader reader(frame, frame.batch_axes(frame.argument(7)));
    const Operand d_o = reader.operand(), d_lse = reader.operand(), o = reader.operand(),
                  lse = reader.operand();
    const BlockArguments<Backend> given(frame, reader);
    const Operand dq = reader.result(), dk = reader.result(), dv = reader.result();
    const auto dbias = reader.result_if(given.bias.has_value());
    const auto dsinks = reader.result_if(given.sinks.has_value());
    std::vector<const Operand*> all = given.operands();
    for (const Operand* operand : {&d_o, &d_lse, &o, &lse}) all.push_back(operand);
    const Extents extents = extents_of(all);
    for_each(extents, [&](std::int64_t place) {
      const BlockLayout layout = given.layout(place, extents);
      const AttentionGradient gradient{.d_o = d_o.at(place, extents),
                                       .o = o.at(place, extents),
                                       .lse = lse.at(place, extents),
                                       .d_lse = d_lse.at(place, extents)};
      const AttentionGradients gradients{.dq = dq.at(place, extents),
                                         .dk = dk.at(place, extents),
                                         .dv = dv.at(place, extents),
                                         .dbias = at(dbias, place, extents),
                                         .dsinks = at(dsinks, place, extents)};
      const std::int64_t workspace = frame.workspace(
          [](const auto&... operands) { return cuda::attention_backward_workspace(operands...); },
          gradient, layout);
      frame.run(workspace, [&](const auto&... queue) {
        attention_backward(gradient, given.q.at(place, extents), given.k.at(place, extents),
                           given.v.at(place, extents), layout, given.options(place, extents),
                           gradients, queue...);
      });
    });
  }
};

template <class Backend>
struct AttentionDecode {
  static constexpr const char* kName = "attention_decode";
  /// (o, lse) of (q, k_cache, v_cache, indptr, indices), and lengths and sinks, if any.
  static void run(const ForeignCall<Backend>& frame) {
    Reader reader(frame, frame.batch_axes(frame.argument(3)));
    const Operand q = reader.operand(), k = reader.operand(), v = reader.operand(),
                  indptr = reader.operand(), indices = reader.operand();
    const auto lengths = reader.operand_if(frame.flag("has_lengths"));
    const auto sinks = reader.operand_if(frame.flag("has_sinks"));
    const Operand o = reader.result(), lse = reader.result();
    std::vector<const Operand*> all{&q, &k, &v, &indptr, &indices};
    for (const auto* operand : {&lengths, &sinks}) collect(all, *operand);
    const Extents extents = extents_of(all);
    for_each(extents, [&](std::int64_t place) {
      const TensorView queries = q.at(place, extents), keys = k.at(place, extents),
                       values = v.at(place, extents);
      const DecodeKeys lists{.indptr = indptr.at(place, extents),
                             .indices = indices.at(place, extents),
                             .lengths = at(lengths, place, extents)};
      AttentionOptions options;
      options.causal = frame.flag("causal");
      options.scale = frame.optional_real("scale");
      options.softcap = frame.optional_real("softcap");
      options.sinks = at(sinks, place, extents);
      const std::int64_t workspace = frame.workspace(
          [](const auto&... operands) { return cuda::attention_decode_workspace(operands...); },
          queries, keys, values, lists);
      frame.run(workspace, [&](const auto&... queue) {
        attention_decode(queries, keys, values, lists, options, o.at(place, extents),
                         lse.at(place, extents), queue...);
      });
    });
  }
};

template <class Backend>
struct BlockPool {
  static constexpr const char* kName = "block_pool";
  static constexpr bool kReplays = true;
  /// The mean, maximum or minimum of each block of the rows of (x).
  static void run(const ForeignCall<Backend>& frame) {
    Reader reader(frame, frame.batch_axes(frame.argument(0), 4));
    const Operand x = reader.operand(), out = reader.result();
    const std::int64_t mode = frame.integer("mode");
    if (mode < 0 || mode > static_cast<std::int64_t>(PoolMode::min)) {
      throw ValueError("block_pool: called with a mode that is none");
    }
    const Extents extents = extents_of({&x});
    for_each(extents, [&](std::int64_t place) {
      frame.run([&](const auto&... queue) {
        attention_block_pool(x.at(place, extents), frame.integer("block"),
                             static_cast<PoolMode>(mode), out.at(place, extents), queue...);
      });
    });
  }
};

template <class Backend>
struct BlockTopk {
  static constexpr const char* kName = "block_topk";
  /// The blocks with the highest scores, of (q, pooled) and pooled_min, if any.
  static void run(const ForeignCall<Backend>& frame) {
    Reader reader(frame, frame.batch_axes(frame.argument(0), 4));
    const Operand q = reader.operand(), pooled = reader.operand();
    const auto pooled_min = reader.operand_if(frame.flag("has_min"));
    const Operand out = reader.result();
    std::vector<const Operand*> all{&q, &pooled};
    collect(all, pooled_min);
    const BlockTopkOptions options{.k = frame.integer("k"),
                                   .rows = frame.integer("rows"),
                                   .block = frame.integer("block"),
                                   .causal = frame.flag("causal"),
                                   .q_offset = frame.integer("q_offset"),
                                   .keep_first = frame.integer("keep_first"),
                                   .keep_local = frame.integer("keep_local")};
    const Extents extents = extents_of(all);
    for_each(extents, [&](std::int64_t place) {
      const TensorView queries = q.at(place, extents), keys = pooled.at(place, extents);
      const auto least = at(pooled_min, place, extents);
      const std::int64_t workspace = frame.workspace(
          [](const auto&... operands) { return cuda::attention_block_topk_workspace(operands...); },
          queries, keys, least);
      frame.run(workspace, [&](const auto&... queue) {
        attention_block_topk(queries, keys, least, options, out.at(place, extents), queue...);
      });
    });
  }
};

/// q, k, v, the pattern's arrays and the options of csr_attention.
template <class Backend>
struct CsrArguments {
  CsrArguments(const ForeignCall<Backend>& call, Reader& reader)
      : frame(call),
        q(reader.operand()),
        k(reader.operand()),
        v(reader.operand()),
        indptr(reader.operand()),
        indices(reader.operand()),
        bias(reader.operand_if(call.flag("has_bias"))) {}

  [[nodiscard]] std::vector<const Operand*> operands() const {
    std::vector<const Operand*> all{&q, &k, &v, &indptr, &indices};
    collect(all, bias);
    return all;
  }
  [[nodiscard]] CsrPattern pattern(std::int64_t place, const Extents& extents) const {
    return frame.template checked<CsrPattern>(indptr.at(place, extents), indices.at(place, extents),
                                              frame.integer("rows"), frame.integer("cols"));
  }
  [[nodiscard]] CsrAttentionOptions options(std::int64_t place, const Extents& extents) const {
    using Score = CsrAttentionOptions::Score;
    return {.score = frame.flag("gat") ? Score::gat : Score::dot,
            .scale = frame.optional_real("scale"),
            .slope = frame.real("slope"),
            .bias = at(bias, place, extents)};
  }

  const ForeignCall<Backend>& frame;
  Operand q, k, v, indptr, indices;
  std::optional<Operand> bias;
};

template <class Backend>
struct CsrAttention {
  static constexpr const char* kName = "csr_attention";
  static constexpr bool kReplays = true;
  /// (o, lse) of (q, k, v, pattern, bias).
  static void run(const ForeignCall<Backend>& frame) {
    Reader reader(frame, frame.batch_axes(frame.argument(3)));
    const CsrArguments<Backend> given(frame, reader);
    const Operand o = reader.result(), lse = reader.result();
    const Extents extents = extents_of(given.operands());
    for_each(extents, [&](std::int64_t place) {
      frame.run([&](const auto&... queue) {
        csr_attention(given.q.at(place, extents), given.k.at(place, extents),
                      given.v.at(place, extents), given.pattern(place, extents),
                      o.at(place, extents), lse.at(place, extents), given.options(place, extents),
                      queue...);
      });
    });
  }
};

template <class Backend>
struct CsrAttentionBackward {
  static constexpr const char* kName = "csr_attention_backward";
  /// (dq, dk, dv, dbias if there is a bias) of (do, dlse, o, lse, and what csr_attention takes).
  static void run(const ForeignCall<Backend>& frame) {
    Reader reader(frame, frame.batch_axes(frame.argument(7)));
    const Operand d_o = reader.operand(), d_lse = reader.operand(), o = reader.operand(),
                  lse = reader.operand();
    const CsrArguments<Backend> given(frame, reader);
    const Operand dq = reader.result(), dk = reader.result(), dv = reader.result();
    const auto dbias = reader.result_if(given.bias.has_value());
    std::vector<const Operand*> all = given.operands();
    for (const Operand* operand : {&d_o, &d_lse, &o, &lse}) all.push_back(operand);
    const Extents extents = extents_of(all);
    for_each(extents, [&](std::int64_t place) {
      const TensorView q = given.q.at(place, extents);
      const CsrPattern pattern = given.pattern(place, extents);
      const CsrAttentionOptions options = given.options(place, extents);
      const std::int64_t workspace = frame.workspace(
          [](const auto&... operands) {
            return cuda::csr_attention_backward_workspace(operands...);
          },
          q, pattern, options, dbias.has_value());
      frame.run(workspace, [&](const auto&... queue) {
        csr_attention_backward(
            d_o.at(place, extents), q, given.k.at(place, extents), given.v.at(place, extents),
            o.at(place, extents), lse.at(place, extents), pattern, dq.at(place, extents),
            dk.at(place, extents), dv.at(place, extents), at(dbias, place, extents),
            std::optional(d_lse.at(place, extents)), options, queue...);
      });
    });
  }
};

template <class Backend>
struct CsrSoftmax {
  static constexpr const char* kName = "csr_softmax";
  static constexpr bool kReplays = true;
  /// The softmax of (pattern, values).
  static void run(const ForeignCall<Backend>& frame) {
    Reader reader(frame, frame.batch_axes(frame.argument(0)));
    const Operand indptr = reader.operand(), indices = reader.operand(), x = reader.operand(),
                  out = reader.result();
    const Extents extents = extents_of({&indptr, &indices, &x});
    for_each(extents, [&](std::int64_t place) {
      const auto pattern =
          frame.template checked<CsrPattern>(indptr.at(place, extents), indices.at(place, extents),
                                             frame.integer("rows"), frame.integer("cols"));
      frame.run([&](const auto&... queue) {
        csr_softmax(pattern, x.at(place, extents), out.at(place, extents), queue...);
      });
    });
  }
};

template <class Backend>
struct CsrSoftmaxBackward {
  static constexpr const char* kName = "csr_softmax_backward";
  static constexpr bool kReplays = true;
  /// The gradient by the values, of (pattern, softmax, its gradient).
  static void run(const ForeignCall<Backend>& frame) {
    Reader reader(frame, frame.batch_axes(frame.argument(0)));
    const Operand indptr = reader.operand(), indices = reader.operand(), y = reader.operand(),
                  dy = reader.operand(), dx = reader.result();
    const Extents extents = extents_of({&indptr, &indices, &y, &dy});
    for_each(extents, [&](std::int64_t place) {
      const auto pattern =
          frame.template checked<CsrPattern>(indptr.at(place, extents), indices.at(place, extents),
                                             frame.integer("rows"), frame.integer("cols"));
      frame.run([&](const auto&... queue) {
        csr_softmax_backward(pattern, y.at(place, extents), dy.at(place, extents),
                             dx.at(place, extents), queue...);
      });
    });
  }
};

}  // namespace

template <class Backend>
void add_attention(Handlers& handlers) {
  add<Backend, Attention>(handlers);
  add<Backend, AttentionBackward>(handlers);
  add<Backend, AttentionDecode>(handlers);
  add<Backend, BlockPool>(handlers);
  add<Backend, BlockTopk>(handlers);
  add<Backend, CsrAttention>(handlers);
  add<Backend, CsrAttentionBackward>(handlers);
  add<Backend, CsrSoftmax>(handlers);
  add<Backend, CsrSoftmaxBackward>(handlers);
}

template void add_attention<GOSSAMER_BACKEND>(Handlers& handlers);

}  // namespace gossamer::python::ffi
