// attention_decode and merge_attention.

#include <algorithm>
#include <span>

#include "attention/block/block_problem.h"
#include "attention/block/kernels/block_decode.cuh"
#include "attention/block/kernels/block_merge.cuh"
#include "base/carver.h"
#include "base/runtime.h"

namespace gossamer::cuda {
namespace {

/// How the lists are cut, from shapes alone.
struct Cut {
  std::int64_t lists, part, parts;  // parts: of all lists, at most
  std::int64_t heads;               // heads of keys that share a list
  std::int64_t rows, row_tiles;     // queries of a head of keys
  bool fits;                        // a launch
};

constexpr std::int64_t kLeastPart = 64, kMostPart = 1024;
/// So many thread blocks keep any GPU busy.
constexpr std::int64_t kBlocks = 1024;
constexpr std::int64_t kMostBlocks = 0x7fffffff;

/// Of operands of the right ranks.
Cut cut_lists(const TensorView& q, const TensorView& k, const DecodeKeys& keys) {
  const std::int64_t lists = keys.indptr.shape[0] - 1, key_heads = k.shape[2];
  Cut cut{.lists = lists,
          .part = kLeastPart,
          .parts = 0,
          .heads = lists == q.shape[0] ? key_heads : 1,
          .rows = q.shape[1] * (q.shape[2] / key_heads),
          .row_tiles = 0,
          .fits = false};
  cut.row_tiles = ceil_div(cut.rows, DecodeTile<float>::kRows);
  std::int64_t tokens = 0;
  if (__builtin_mul_overflow(keys.indices.shape[0], k.shape[1], &tokens)) return cut;
  while (cut.part < kMostPart && tokens / (2 * cut.part) >= kBlocks / cut.heads) cut.part *= 2;
  cut.parts = tokens / cut.part + lists;
  cut.fits = cut.heads <= 65535 && cut.row_tiles <= 65535 && cut.parts <= kMostBlocks / cut.heads;
  return cut;
}

struct Parts {
  int* counts;
  float* results;
};

Parts carve(const Cut& cut, std::int64_t value_depth, Carver& carver) {
  Parts parts{};
  parts.counts = carver.take<int>(cut.lists);
  parts.results = carver.take<float>(cut.parts * cut.heads * cut.rows * (value_depth + 2));
  return parts;
}

DecodeLists lists_of(const detail::DecodeSizes& d, const DecodeKeys& keys, const Cut& cut) {
  return {.indptr = static_cast<const int*>(keys.indptr.data),
          .indices = static_cast<const int*>(keys.indices.data),
          .lengths = keys.lengths ? static_cast<const int*>(keys.lengths->data) : nullptr,
          .entries = keys.indices.shape[0],
          .count = static_cast<int>(cut.lists),
          .of_sequence = static_cast<int>(d.lists),
          .lengths_of_lists = keys.lengths && keys.lengths->rank == 2,
          .pages = d.pages,
          .page_size = static_cast<int>(std::min<std::int64_t>(d.page_size, kMostTokens)),
          .part = static_cast<int>(cut.part)};
}

}  // namespace

std::int64_t attention_decode_workspace(const TensorView& q, const TensorView& k,
                                        const TensorView& v, const DecodeKeys& keys) {
  // The operation refuses these operands before it uses the workspace.
  if (q.rank != 4 || k.rank != 4 || v.rank != 4 || keys.indptr.rank != 1 ||
      keys.indices.rank != 1 || k.shape[2] < 1 || keys.indptr.shape[0] < 2) {
    return 0;
  }
  const Cut cut = cut_lists(q, k, keys);
  if (!cut.fits) return 0;
  Carver carver(nullptr);
  static_cast<void>(carve(cut, std::min<std::int64_t>(v.shape[3], 256), carver));
  return carver.used();
}

void attention_decode(const TensorView& q, const TensorView& k, const TensorView& v,
                      const DecodeKeys& keys, const AttentionOptions& options, const TensorView& o,
                      const TensorView& lse, const TensorView& workspace, Stream stream) {
  const detail::Checker check("attention_decode", DeviceType::cuda);
  const detail::DecodeSizes d =
      detail::check_attention_decode(check, q, k, v, keys, options, o, lse);
  check.workspace(workspace, q.device, attention_decode_workspace(q, k, v, keys));
  if (lse.numel() == 0) return;
  const Cut cut = cut_lists(q, k, keys);
  if (!cut.fits || lse.numel() > kMostBlocks) {
    check.not_implemented("q and the lists have 2**31 parts or more on a GPU");
  }
  const DeviceGuard guard(q.device);
  Carver carver(workspace.data);
  const Parts parts = carve(cut, d.value_depth, carver);
  const DecodeLists lists = lists_of(d, keys, cut);
  launch(block_decode_parts, dim3(1), dim3(kScanThreads), 0, stream, lists, parts.counts);
  with_attention_type(q.dtype, [&]<class T>(T) {
    using Tile = DecodeTile<T>;
    const bool vectors = vectors_fit(q) && vectors_fit(k) && vectors_fit(v);
    const std::int64_t columns = AttentionTile<T>::padded(std::max(d.depth, d.value_depth));
    const std::int64_t pitch = AttentionTile<T>::pitch(d.depth);
    const std::int64_t stage = Tile::kKeys * (pitch + AttentionTile<T>::pitch(d.value_depth));
    const dim3 grid(grid_x(cut.parts), static_cast<unsigned>(cut.heads),
                    static_cast<unsigned>(cut.row_tiles));
    launch(block_decode<T>, grid, dim3(Tile::kThreads),
           static_cast<std::size_t>(Tile::kRows * pitch + Tile::kWarps * 2 * stage) * sizeof(T),
           stream,
           BlockDecodeArgs<T>{
               .lists = lists,
               .parts = parts.counts,
               .q = rows_of<const T>(q, false),
               .k = rows_of<const T>(k, false),
               .v = rows_of<const T>(v, false),
               .queries = static_cast<int>(d.queries),
               .group = static_cast<int>(d.group),
               .rows = static_cast<int>(cut.rows),
               .depth = static_cast<int>(d.depth),
               .value_depth = static_cast<int>(d.value_depth),
               .log_across = std::min(copy_lanes(vectors, columns, AttentionTile<T>::kVector), 5),
               .vectors = vectors,
               .causal = options.causal,
               .scale = d.scale,
               .softcap = static_cast<float>(options.softcap.value_or(0)),
               .results = parts.results});
  });
  launch(block_decode_merge, dim3(grid_x(lse.numel())), dim3(kDecodeMergeThreads), 0, stream,
         BlockDecodeMergeArgs{
             .lists = lists,
             .parts = parts.counts,
             .most_parts = static_cast<int>(cut.parts),
             .key_heads = static_cast<int>(d.key_heads),
             .queries = static_cast<int>(d.queries),
             .group = static_cast<int>(d.group),
             .rows = static_cast<int>(cut.rows),
             .value_depth = static_cast<int>(d.value_depth),
             .results = parts.results,
             .sinks = options.sinks ? static_cast<const float*>(options.sinks->data) : nullptr,
             .o = rows_of<void>(o, false),
             .type = o.dtype,
             .lse = static_cast<float*>(lse.data)});
}

std::int64_t merge_attention_workspace(std::span<const TensorView> o_parts,
                                       std::span<const TensorView> lse_parts) {
  if (o_parts.size() <= kMergeParts || lse_parts.empty() || o_parts[0].rank == 0) return 0;
  const std::int64_t depth = o_parts[0].shape[static_cast<std::size_t>(o_parts[0].rank - 1)];
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(lse_parts[0].numel(), (depth + 2) * 4, &bytes)) return 0;
  return bytes;
}

void merge_attention(std::span<const TensorView> o_parts, std::span<const TensorView> lse_parts,
                     const TensorView& o, const TensorView& lse, const TensorView& workspace,
                     Stream stream) {
  const detail::Checker check("merge_attention", DeviceType::cuda);
  detail::check_merge_attention(check, o_parts, lse_parts, o, lse);
  check.workspace(workspace, o.device, merge_attention_workspace(o_parts, lse_parts));
  if (lse.numel() == 0) return;
  const std::int64_t blocks = ceil_div(lse.numel(), kMergeWarps);
  const bool packed = o.rank == 3;
  if (blocks > kMostBlocks || o.shape[packed ? 2 : 3] > kMostBlocks) {
    check.not_implemented("o has 2**33 rows of heads or 2**31 columns or more on a GPU");
  }
  BlockMergeArgs args{.parts = {},
                      .count = 0,
                      .type = o.dtype,
                      .batches = packed ? 1 : o.shape[0],
                      .heads = o.shape[packed ? 1 : 2],
                      .rows = o.shape[packed ? 0 : 1],
                      .depth = static_cast<int>(o.shape[packed ? 2 : 3]),
                      .state = nullptr,
                      .first = true,
                      .last = false,
                      .o = rows_of<void>(o, packed),
                      .lse = static_cast<float*>(lse.data)};
  if (workspace.data != nullptr) args.state = static_cast<float*>(workspace.data);
  const DeviceGuard guard(o.device);
  for (std::size_t s = 0; s < o_parts.size(); s += kMergeParts, args.first = false) {
    const std::size_t end = std::min<std::size_t>(s + kMergeParts, o_parts.size());
    args.count = static_cast<int>(end - s);
    args.last = end == o_parts.size();
    for (std::size_t i = s; i < end; ++i) {
      args.parts[i - s] = {.o = rows_of<const void>(o_parts[i], packed),
                           .lse = static_cast<const float*>(lse_parts[i].data)};
    }
    launch(block_merge, dim3(grid_x(blocks)), dim3(32 * kMergeWarps), 0, stream, args);
  }
}

}  // namespace gossamer::cuda
