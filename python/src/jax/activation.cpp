#include "gossamer/activation.h"

#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "gossamer/cuda.h"
#include "gossamer/prune/select.h"
#include "jax/frame.h"
#include "jax/handlers.h"
#include "jax/shapes.h"

namespace gossamer::python::ffi {
namespace {

// The operations of CPUs have the same names and are found by the types of their arguments: those
// of GPUs take a stream more, and some a workspace.
using cuda::delta_linear, cuda::gated_mlp, cuda::gather_decode, cuda::gather_decode_backward,
    cuda::sparse_linear, cuda::topk_rows, cuda::topk_rows_backward;
using prune::topk_rows;

/// The thresholds of the channels, an operand where no attribute is the threshold of all.
std::optional<Operand> thresholds(const Frame& frame, int index, int batch_axes) {
  if (frame.has("threshold")) return std::nullopt;
  return Operand(frame.argument(index), batch_axes, frame);
}

Threshold threshold_at(const Frame& frame, const std::optional<Operand>& each, std::int64_t place,
                       const std::vector<std::int64_t>& extents) {
  if (!each.has_value()) return {.value = frame.real("threshold")};
  return {.channels = each->at(place, extents)};
}

template <class Backend>
struct SparseLinear {
  static constexpr const char* kName = "sparse_linear";
  /// out = x·wt over the channels that pass, of (x, wt) and thresholds of the channels, if any.
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.argument(1), 2);
    const Operand x(frame.argument(0), axes, frame), wt(frame.argument(1), axes, frame),
        out(frame.result(), axes, frame);
    std::vector<const Operand*> all{&x, &wt};
    const auto each = thresholds(frame, 2, axes);
    if (each.has_value()) all.push_back(&*each);
    const auto extents = extents_of(all);
    for_each(extents, [&](std::int64_t place) {
      const Threshold threshold = threshold_at(frame, each, place, extents);
      const TensorView tokens = x.at(place, extents), weights = wt.at(place, extents);
      const std::int64_t workspace = frame.workspace(
          [](const auto&... operands) { return cuda::sparse_linear_workspace(operands...); },
          tokens, weights);
      frame.run(workspace, [&](const auto&... queue) {
        sparse_linear(tokens, weights, threshold, out.at(place, extents), Epilogue{}, queue...);
      });
    });
  }
};

template <class Backend>
struct DeltaLinear {
  static constexpr const char* kName = "delta_linear";
  /// (y, last, sums, how many channels have sent) of (x, wt, last, sums) and thresholds of the
  /// channels, if any. The state is updated in place: XLA gives its results the operands' memory,
  /// and jax.vmap calls the handler for one element after the other.
  static void run(const ForeignCall<Backend>& frame) {
    const auto view = [&](const xla::Buffer& buffer) {
      return Operand(buffer, 0, frame).at(0, {});
    };
    const TensorView x = view(frame.argument(0)), wt = view(frame.argument(1));
    const TensorView out = view(frame.result(0)), sent = view(frame.result(3));
    const DeltaState state{.last = view(frame.result(1)), .sums = view(frame.result(2))};
    const Threshold threshold = threshold_at(frame, thresholds(frame, 4, 0), 0, {});
    const bool refresh = frame.flag("refresh");
    if constexpr (std::is_same_v<Backend, Cpu>) {
      *static_cast<std::int32_t*>(sent.data) =
          static_cast<std::int32_t>(delta_linear(x, wt, state, threshold, out, refresh));
    } else {
      const std::int64_t workspace = frame.workspace(
          [](const auto&... operands) { return cuda::delta_linear_workspace(operands...); }, x, wt);
      frame.run(workspace, [&](const auto&... queue) {
        delta_linear(x, wt, state, threshold, out, sent, refresh, Epilogue{}, queue...);
      });
    }
  }
};

template <class Backend>
struct GatedMlp {
  static constexpr const char* kName = "gated_mlp";
  /// out of (x, w_gate, w_up, w_down_t) and thresholds of the channels, if any.
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.argument(1), 2);
    const auto operand = [&](int index) { return Operand(frame.argument(index), axes, frame); };
    const Operand x = operand(0), gate = operand(1), up = operand(2), down = operand(3),
                  out(frame.result(), axes, frame);
    std::vector<const Operand*> all{&x, &gate, &up, &down};
    const auto each = thresholds(frame, 4, axes);
    if (each.has_value()) all.push_back(&*each);
    const std::int64_t activation = frame.integer("activation");
    if (activation < 0 || activation > static_cast<std::int64_t>(Activation::clamp)) {
      throw ValueError("gated_mlp: called with an activation that is none");
    }
    const GatedMlpOptions options{.activation = static_cast<Activation>(activation),
                                  .lo = frame.real("lo"),
                                  .hi = frame.real("hi")};
    const auto extents = extents_of(all);
    for_each(extents, [&](std::int64_t place) {
      const Threshold threshold = threshold_at(frame, each, place, extents);
      const TensorView tokens = x.at(place, extents), weights = gate.at(place, extents);
      const std::int64_t workspace = frame.workspace(
          [](const auto&... operands) { return cuda::gated_mlp_workspace(operands...); }, tokens,
          weights);
      frame.run(workspace, [&](const auto&... queue) {
        gated_mlp(tokens, weights, up.at(place, extents), down.at(place, extents), threshold,
                  out.at(place, extents), options, queue...);
      });
    });
  }
};

// gather_decode and its two gradients, which are closed under differentiation.

template <class Backend>
struct GatherDecode {
  static constexpr const char* kName = "gather_decode";
  /// out of (indices, values, table).
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.argument(2), 2);
    const auto operand = [&](int index) { return Operand(frame.argument(index), axes, frame); };
    const Operand indices = operand(0), values = operand(1), table = operand(2),
                  out(frame.result(), axes, frame);
    const auto extents = extents_of({&indices, &values, &table});
    for_each(extents, [&](std::int64_t place) {
      frame.run([&](const auto&... queue) {
        gather_decode(indices.at(place, extents), values.at(place, extents),
                      table.at(place, extents), out.at(place, extents), std::optional<TensorView>(),
                      queue...);
      });
    });
  }
};

/// An operand that is not read: of a shape and a type, without memory.
TensorView unread(TensorView like) {
  like.data = nullptr;
  return like;
}

/// One of the gradients of gather_decode.
template <class Backend>
void run_decode_backward(const ForeignCall<Backend>& frame, const TensorView& dy,
                         const TensorView& indices, const TensorView& values,
                         const TensorView& table, const std::optional<TensorView>& dvalues,
                         const std::optional<TensorView>& dtable) {
  const std::int64_t workspace = frame.workspace(
      [](const auto&... operands) { return cuda::gather_decode_backward_workspace(operands...); },
      dy, indices, values, table, dvalues, dtable);
  frame.run(workspace, [&](const auto&... queue) {
    gather_decode_backward(dy, indices, values, table, dvalues, dtable, queue...);
  });
}

template <class Backend>
struct GatherDecodeValues {
  static constexpr const char* kName = "gather_decode_values";
  /// dvalues of (dy, indices, table).
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.argument(2), 2);
    const auto operand = [&](int index) { return Operand(frame.argument(index), axes, frame); };
    const Operand dy = operand(0), indices = operand(1), table = operand(2),
                  out(frame.result(), axes, frame);
    const auto extents = extents_of({&dy, &indices, &table});
    for_each(extents, [&](std::int64_t place) {
      const TensorView dvalues = out.at(place, extents);
      run_decode_backward(frame, dy.at(place, extents), indices.at(place, extents), unread(dvalues),
                          table.at(place, extents), dvalues, {});
    });
  }
};

template <class Backend>
struct GatherDecodeTable {
  static constexpr const char* kName = "gather_decode_table";
  /// dtable of (dy, indices, values).
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.result(), 2);
    const auto operand = [&](int index) { return Operand(frame.argument(index), axes, frame); };
    const Operand dy = operand(0), indices = operand(1), values = operand(2),
                  out(frame.result(), axes, frame);
    const auto extents = extents_of({&dy, &indices, &values});
    for_each(extents, [&](std::int64_t place) {
      const TensorView dtable = out.at(place, extents);
      run_decode_backward(frame, dy.at(place, extents), indices.at(place, extents),
                          values.at(place, extents), unread(dtable), {}, dtable);
    });
  }
};

/// [..., n] as a matrix.
TensorView as_rows(TensorView view) {
  std::int64_t rows = 1;
  for (int axis = 0; axis + 1 < view.rank; ++axis) {
    rows *= view.shape[static_cast<std::size_t>(axis)];
  }
  const std::int64_t last = view.shape[static_cast<std::size_t>(view.rank - 1)];
  view.rank = 2;
  view.shape = {rows, last};
  view.strides = {last, 1};
  return view;
}

/// How many axes jax.vmap added before the `axes` that the first operand has of its own.
template <class Backend>
int added_axes(const ForeignCall<Backend>& frame) {
  return frame.batch_axes(frame.argument(0), static_cast<int>(frame.integer("axes")));
}

template <class Backend>
struct TopkRows {
  static constexpr const char* kName = "topk_rows";
  /// (values, indices) of x and keys, if any.
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = added_axes(frame);
    const Operand x(frame.argument(0), axes, frame), values(frame.result(0), axes, frame),
        indices(frame.result(1), axes, frame);
    std::vector<const Operand*> all{&x};
    std::optional<Operand> keys;
    if (frame.flag("has_key")) all.push_back(&keys.emplace(frame.argument(1), axes, frame));
    const std::int64_t nan = frame.integer("nan");
    const prune::SelectOptions options{
        .tie = frame.flag("high") ? prune::Tie::high : prune::Tie::low,
        .nan = nan == 0   ? prune::Nan::lowest
               : nan == 1 ? prune::Nan::highest
                          : prune::Nan::error};
    const auto extents = extents_of(all);
    for_each(extents, [&](std::int64_t place) {
      const TensorView rows = as_rows(x.at(place, extents));
      const TensorView out = as_rows(values.at(place, extents));
      const auto key =
          keys.has_value() ? std::optional(as_rows(keys->at(place, extents))) : std::nullopt;
      const std::int64_t workspace = frame.workspace(
          [](const auto&... operands) { return cuda::topk_rows_workspace(operands...); }, rows,
          key);
      frame.run(workspace, [&](const auto&... queue) {
        topk_rows(rows, out.shape[1], key, options, out, as_rows(indices.at(place, extents)),
                  queue...);
      });
    });
  }
};

template <class Backend>
struct TopkRowsBackward {
  static constexpr const char* kName = "topk_rows_backward";
  /// out of (dy, indices).
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = added_axes(frame);
    const Operand dy(frame.argument(0), axes, frame), indices(frame.argument(1), axes, frame),
        out(frame.result(), axes, frame);
    const auto extents = extents_of({&dy, &indices});
    for_each(extents, [&](std::int64_t place) {
      frame.run([&](const auto&... queue) {
        topk_rows_backward(dy.at(place, extents), indices.at(place, extents),
                           out.at(place, extents), queue...);
      });
    });
  }
};

}  // namespace

template <class Backend>
void add_activation(Handlers& handlers) {
  add<Backend, SparseLinear>(handlers);
  add<Backend, DeltaLinear>(handlers);
  add<Backend, GatedMlp>(handlers);
  add<Backend, GatherDecode>(handlers);
  add<Backend, GatherDecodeValues>(handlers);
  add<Backend, GatherDecodeTable>(handlers);
  add<Backend, TopkRows>(handlers);
  add<Backend, TopkRowsBackward>(handlers);
}

template void add_activation<GOSSAMER_BACKEND>(Handlers& handlers);

}  // namespace gossamer::python::ffi
