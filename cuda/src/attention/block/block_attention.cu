#include <algorithm>

#include "attention/block/block_problem.h"
#include "attention/block/kernels/block_attention.cuh"
#include "base/kernels/scan.cuh"
#include "base/launch.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"

namespace gossamer::cuda {

using detail::AttentionSizes;

bool has_bits(const BlockLayout& layout) {
  return layout.bits().has_value() && layout.kinds().has_value() && layout.nblocks() > 0;
}

AttentionLayout layout_of(const BlockLayout& layout, int* places, Stream stream) {
  const LayoutShape& shape = layout.shape();
  AttentionLayout result{.indptr = static_cast<const int*>(layout.indptr().data),
                         .indices = static_cast<const int*>(layout.indices().data),
                         .places = nullptr,
                         .kinds = nullptr,
                         .bits = nullptr,
                         .bit_bytes = layout.bit_bytes(),
                         .bit_pitch = static_cast<int>((layout.block().cols + 7) / 8),
                         .batch = static_cast<int>(shape.batch),
                         .heads = static_cast<int>(shape.heads),
                         .rows = static_cast<int>(shape.rows),
                         .bm = static_cast<int>(layout.block().rows),
                         .bn = static_cast<int>(layout.block().cols)};
  if (!has_bits(layout)) return result;
  result.places = places;
  result.kinds = static_cast<const std::uint8_t*>(layout.kinds()->data);
  result.bits = static_cast<const std::uint8_t*>(layout.bits()->data);
  launch(layout_mark_bits, dim3(grid_x(ceil_div(layout.nblocks(), kPlacesThreads))),
         dim3(kPlacesThreads), 0, stream,
         LayoutPlacesArgs{.kinds = result.kinds, .blocks = layout.nblocks(), .marks = places});
  launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, places,
         static_cast<int>(layout.nblocks()));
  return result;
}

AttentionScores scores_of(const AttentionOptions& options, float scale) {
  AttentionScores scores{.scale = scale,
                         .softcap = static_cast<float>(options.softcap.value_or(0)),
                         .bias = nullptr,
                         .bias_f32 = true,
                         .bias_batch = 0,
                         .bias_head = 0,
                         .bias_row = 0};
  if (!options.bias) return scores;
  const TensorView& bias = *options.bias;
  scores.bias = bias.data;
  scores.bias_f32 = bias.dtype == DType::f32;
  scores.bias_batch = bias.shape[0] == 1 ? 0 : bias.strides[0];
  scores.bias_head = bias.shape[1] == 1 ? 0 : bias.strides[1];
  scores.bias_row = bias.strides[2];
  return scores;
}

AttentionSpan span_of(const AttentionOptions& options) {
  const auto bound = [](const std::optional<std::int64_t>& side) {
    return side ? std::min(*side, detail::kMaxTokens) : std::int64_t{-1};
  };
  return {.before = bound(options.before),
          .after = bound(options.after),
          .q_offset = options.q_offset.value_or(0),
          .causal = options.causal,
          .aligned = !options.q_offset.has_value(),
          .limited = options.causal || options.before || options.after};
}

AttentionSequences sequences_of(const AttentionSizes& sizes, const BlockLayout& layout,
                                const AttentionOptions& options) {
  AttentionSequences result{.cu_q = nullptr,
                            .cu_k = nullptr,
                            .tokens = sizes.tokens,
                            .key_tokens = sizes.key_tokens,
                            .most = sizes.longest,
                            .most_keys = sizes.longest_keys};
  if (!sizes.packed) return result;
  result.cu_q = static_cast<const int*>(options.cu_q->data);
  result.cu_k = static_cast<const int*>(options.cu_k->data);
  result.most = std::min(sizes.tokens, layout.shape().rows * layout.block().rows);
  result.most_keys = std::min(sizes.key_tokens, layout.shape().cols * layout.block().cols);
  if (options.bias) {
    result.most = std::min(result.most, options.bias->shape[2]);
    result.most_keys = std::min(result.most_keys, options.bias->shape[3]);
  }
  return result;
}

namespace {

template <class T, int MaxDepth>
void run(const BlockAttentionArgs<T>& args, dim3 grid, Stream stream) {
  using Tile = AttentionTile<T>;
  const std::size_t elements =
      static_cast<std::size_t>((Tile::kRows + Tile::kKeys) * Tile::pitch(args.depth) +
                               Tile::kKeys * Tile::pitch(args.value_depth));
  launch(block_attention<T, MaxDepth>, grid, dim3(Tile::kThreads), elements * sizeof(T), stream,
         args);
}

}  // namespace

std::int64_t attention_workspace(const BlockLayout& layout) {
  return has_bits(layout) ? layout.nblocks() * 4 : 0;
}

void attention(const TensorView& q, const TensorView& k, const TensorView& v,
               const BlockLayout& layout, const AttentionOptions& options, const TensorView& o,
               const TensorView& lse, const TensorView& workspace, Stream stream) {
  const detail::Checker check("attention", DeviceType::cuda);
  AttentionSizes sizes = detail::check_attention_operands(check, q, k, v, layout, options);
  detail::check_attention_options(check, sizes, q, layout, options, !sizes.packed);
  detail::check_attention_results(check, sizes, options, q, k, v, o, lse);
  check.workspace(workspace, q.device, attention_workspace(layout));
  if (lse.numel() == 0 || sizes.batch == 0) return;
  const DeviceGuard guard(q.device);
  const std::int64_t shared = layout.shape().heads == sizes.heads ? 1 : sizes.group;
  const auto run_for = [&]<class T>(T) {
    using Tile = AttentionTile<T>;
    const bool vectors = vectors_fit(q) && vectors_fit(k) && vectors_fit(v);
    const std::int64_t depth = std::max(sizes.depth, sizes.value_depth);
    const int log_across = copy_lanes(vectors, Tile::padded(depth), Tile::kVector);
    const std::int64_t tiles = ceil_div(layout.block().rows * shared, Tile::kRows);
    const BlockAttentionArgs<T> args{
        .layout = layout_of(layout, static_cast<int*>(workspace.data), stream),
        .sequences = sequences_of(sizes, layout, options),
        .q = rows_of<const T>(q, sizes.packed),
        .k = rows_of<const T>(k, sizes.packed),
        .v = rows_of<const T>(v, sizes.packed),
        .o = rows_of<T>(o, sizes.packed),
        .lse = static_cast<float*>(lse.data),
        .lse_batch = sizes.heads * sizes.longest,
        .lse_head = sizes.packed ? sizes.tokens : sizes.longest,
        .heads = static_cast<int>(sizes.heads),
        .group = static_cast<int>(sizes.group),
        .shared = static_cast<int>(shared),
        .tiles = static_cast<int>(tiles),
        .depth = static_cast<int>(sizes.depth),
        .value_depth = static_cast<int>(sizes.value_depth),
        .log_across = log_across,
        .vectors = vectors,
        .span = span_of(options),
        .scores = scores_of(options, sizes.scale),
        .sinks = options.sinks ? static_cast<const float*>(options.sinks->data) : nullptr};
    const dim3 grid(grid_x(layout.shape().rows * tiles),
                    static_cast<unsigned>(sizes.batch * (sizes.heads / shared)));
    if (depth <= 128) {
      run<T, 128>(args, grid, stream);
    } else {
      run<T, 256>(args, grid, stream);
    }
  };
  if (sizes.batch * (sizes.heads / shared) > 65535) {
    check.not_implemented("q has " + std::to_string(sizes.batch * sizes.heads) +
                          " heads in all batches, expected at most 65535 on a GPU");
  }
  with_attention_type(q.dtype, run_for);
}

}  // namespace gossamer::cuda
