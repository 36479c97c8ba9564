#include <algorithm>
#include <utility>

#include "attention/block/block_problem.h"
#include "attention/block/kernels/block_gradients.cuh"
#include "base/carver.h"
#include "base/runtime.h"
#include "formats/csr/csr_view.h"

namespace gossamer::cuda {
namespace {

using detail::AttentionSizes;

/// The layout as a pattern of all its rows, whose transpose has a list for each column of blocks.
CsrView pattern_of(const BlockLayout& layout) {
  return {.indptr = static_cast<const int*>(layout.indptr().data),
          .indices = static_cast<const int*>(layout.indices().data),
          .values = nullptr,
          .dtype = DType::f32,
          .rows = layout.shape().all_rows(),
          .cols = layout.shape().cols,
          .nnz = layout.nblocks()};
}

struct Parts {
  int* places;
  CsrTransposed turned;
  void* scratch;
  float* logs;
  float* delta;
};

/// `queries`: those of all heads of all batches.
Parts carve(const BlockLayout& layout, std::int64_t queries, Carver& carver) {
  const CsrView pattern = pattern_of(layout);
  const std::int64_t entries = pattern.rows > 0 && pattern.cols > 0 ? pattern.nnz : 0;
  Parts parts{};
  parts.places = carver.take<int>(has_bits(layout) ? entries : 0);
  parts.turned = {.indptr = carver.take<int>(entries > 0 ? pattern.cols + 1 : 0),
                  .indices = carver.take<int>(entries),
                  .values = nullptr,
                  .permutation = carver.take<int>(entries)};
  parts.scratch = carver.take_bytes(entries > 0 ? transpose_workspace(pattern) : 0);
  parts.logs = carver.take<float>(queries);
  parts.delta = carver.take<float>(queries);
  if (entries == 0) parts.turned.indptr = nullptr;
  return parts;
}

/// The tiles of all blocks of a side as a grid, a slice of columns in y.
dim3 grid_of(const detail::Checker& check, std::int64_t tiles, std::int64_t depth,
             std::int64_t columns) {
  if (tiles > 0x7fffffff) check.not_implemented("q and layout have 2**31 tiles or more on a GPU");
  return {grid_x(tiles), static_cast<unsigned>(ceil_div(depth, columns))};
}

template <class T>
void run(const BlockGradientsArgs<T>& given, dim3 grid, Stream stream) {
  using Tile = GradientTile<T>;
  BlockGradientsArgs<T> args = given;
  const auto row = static_cast<std::size_t>(AttentionTile<T>::pitch(args.depth) +
                                            AttentionTile<T>::pitch(args.value_depth)) *
                   sizeof(T);
  // A thread block of sm_80 may have 163 KiB.
  const std::size_t both = row * (Tile::kRows + 2 * Tile::kOthers);
  args.two_stages = both <= 150 * 1024;
  launch(block_gradients<T>, grid, dim3(Tile::kThreads),
         args.two_stages ? both : row * (Tile::kRows + Tile::kOthers), stream, args);
}

void prepare(const AttentionSizes& sizes, const AttentionGradient& gradient,
             const AttentionOptions& options, const AttentionGradients& gradients,
             const Parts& parts, Stream stream) {
  const std::int64_t batches = sizes.packed ? 1 : sizes.batch;
  const std::int64_t rows = sizes.packed ? sizes.tokens : sizes.longest;
  launch(block_delta, dim3(grid_x(ceil_div(batches * sizes.heads * rows, kDeltaWarps))),
         dim3(32 * kDeltaWarps), 0, stream,
         BlockDeltaArgs{
             .o = rows_of<const void>(gradient.o, sizes.packed),
             .d_o = rows_of<const void>(gradient.d_o, sizes.packed),
             .type = gradient.o.dtype,
             .lse = static_cast<const float*>(gradient.lse.data),
             .d_lse = gradient.d_lse ? static_cast<const float*>(gradient.d_lse->data) : nullptr,
             .logs = parts.logs,
             .delta = parts.delta,
             .batches = batches,
             .heads = sizes.heads,
             .rows = rows,
             .depth = static_cast<int>(sizes.value_depth)});
  if (!gradients.dsinks) return;
  launch(block_sinks, dim3(grid_x(sizes.heads)), dim3(kSinkThreads), 0, stream,
         BlockSinksArgs{.sinks = static_cast<const float*>(options.sinks->data),
                        .logs = parts.logs,
                        .delta = parts.delta,
                        .batches = batches,
                        .heads = sizes.heads,
                        .rows = rows,
                        .dsinks = static_cast<float*>(gradients.dsinks->data)});
}

}  // namespace

std::int64_t attention_backward_workspace(const AttentionGradient& gradient,
                                          const BlockLayout& layout) {
  Carver carver(nullptr);
  static_cast<void>(carve(layout, gradient.lse.numel(), carver));
  return carver.used();
}

void attention_backward(const AttentionGradient& gradient, const TensorView& q, const TensorView& k,
                        const TensorView& v, const BlockLayout& layout,
                        const AttentionOptions& options, const AttentionGradients& gradients,
                        const TensorView& workspace, Stream stream) {
  const detail::Checker check("attention_backward", DeviceType::cuda);
  AttentionSizes sizes = detail::check_attention_operands(check, q, k, v, layout, options);
  detail::check_attention_options(check, sizes, q, layout, options, !sizes.packed);
  detail::check_attention_gradients(check, sizes, options, gradient, q, k, v, gradients,
                                    !sizes.packed);
  check.workspace(workspace, q.device, attention_backward_workspace(gradient, layout));
  const DeviceGuard guard(q.device);
  Carver carver(workspace.data);
  Parts parts = carve(layout, gradient.lse.numel(), carver);
  if (layout.shape().all_rows() > 0x7fffffff) {
    check.not_implemented("layout has 2**31 rows or more, expected less on a GPU");
  }
  if (sizes.heads == 0) parts.turned.indptr = nullptr;
  const std::int64_t group = std::max<std::int64_t>(sizes.group, 1);
  const std::int64_t shared = layout.shape().heads == sizes.heads ? 1 : group;
  const std::int64_t columns = std::max(sizes.depth, sizes.value_depth);
  const AttentionSequences sequences = sequences_of(sizes, layout, options);
  const auto run_for = [&]<class T>(T) {
    using Tile = GradientTile<T>;
    const bool vectors =
        vectors_fit(q) && vectors_fit(k) && vectors_fit(v) && vectors_fit(gradient.d_o);
    const std::int64_t bm = std::min(layout.block().rows, sequences.most);
    const std::int64_t bn = std::min(layout.block().cols, sequences.most_keys);
    BlockGradientsArgs<T> args{.layout = {},
                               .sequences = sequences,
                               .keys_stay = false,
                               .indptr = nullptr,
                               .indices = nullptr,
                               .entries = nullptr,
                               .x = rows_of<const T>(q, sizes.packed),
                               .y = rows_of<const T>(gradient.d_o, sizes.packed),
                               .other_x = rows_of<const T>(k, sizes.packed),
                               .other_y = rows_of<const T>(v, sizes.packed),
                               .dx = rows_of<T>(gradients.dq, sizes.packed),
                               .dy = rows_of<T>(gradients.dq, sizes.packed),
                               .logs = parts.logs,
                               .delta = parts.delta,
                               .lse_batch = sizes.heads * sizes.longest,
                               .lse_head = sizes.packed ? sizes.tokens : sizes.longest,
                               .dbias = nullptr,
                               .dbias_batch = 0,
                               .dbias_head = 0,
                               .dbias_row = 0,
                               .heads = static_cast<int>(sizes.heads),
                               .key_heads = static_cast<int>(sizes.key_heads),
                               .group = static_cast<int>(group),
                               .shared = static_cast<int>(shared),
                               .blocks = static_cast<int>(layout.shape().rows),
                               .tiles = static_cast<int>(ceil_div(bm * shared, Tile::kRows)),
                               .depth = static_cast<int>(sizes.depth),
                               .value_depth = static_cast<int>(sizes.value_depth),
                               .log_across = copy_lanes(vectors, AttentionTile<T>::padded(columns),
                                                        AttentionTile<T>::kVector),
                               .vectors = vectors,
                               .two_stages = false,
                               .span = span_of(options),
                               .scores = scores_of(options, sizes.scale)};
    if (gradients.dbias) {
      const auto& strides = gradients.dbias->strides;
      args.dbias = static_cast<float*>(gradients.dbias->data);
      args.dbias_batch = strides[0];
      args.dbias_head = strides[1];
      args.dbias_row = strides[2];
    }
    const dim3 queries =
        grid_of(check, sizes.batch * (sizes.heads / shared) * layout.shape().rows * args.tiles,
                sizes.depth, Tile::kColumns);
    const std::int64_t key_tiles = ceil_div(bn, Tile::kRows);
    const dim3 keys =
        grid_of(check, sizes.batch * sizes.key_heads * layout.shape().cols * key_tiles, columns,
                Tile::kColumns);
    if (gradients.dbias) {
      fill_zero(gradients.dbias->data, gradients.dbias->numel() * 4, stream);
    }
    prepare(sizes, gradient, options, gradients, parts, stream);
    args.layout = layout_of(layout, parts.places, stream);
    run(args, queries, stream);
    if (parts.turned.indptr != nullptr) {
      transpose(pattern_of(layout), parts.turned, parts.scratch, stream);
    }
    args.keys_stay = true;
    args.indptr = parts.turned.indptr;
    args.indices = parts.turned.indices;
    args.entries = parts.turned.permutation;
    std::swap(args.x, args.other_x);
    std::swap(args.y, args.other_y);
    args.dx = rows_of<T>(gradients.dk, sizes.packed);
    args.dy = rows_of<T>(gradients.dv, sizes.packed);
    args.dbias = nullptr;
    args.blocks = static_cast<int>(layout.shape().cols);
    args.tiles = static_cast<int>(key_tiles);
    run(args, keys, stream);
  };
  with_attention_type(q.dtype, run_for);
}

}  // namespace gossamer::cuda
