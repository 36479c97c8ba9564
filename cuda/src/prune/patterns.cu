// Masks with a structure.

#include <algorithm>
#include <bit>

#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "prune/kernels/block_masks.cuh"
#include "prune/kernels/nm_groups.cuh"
#include "prune/nm.h"
#include "prune/select.h"

namespace gossamer::cuda {

void mark_groups(const NmArgs& groups, DType type, bool largest, prune::Nan nan, Stream stream) {
  const std::int64_t count = groups.parts * groups.groups * groups.cols;
  if (count == 0 || groups.m == 0) return;
  with_key_type(type, [&]<class K>(K) {
    const KeyMap<K> map = key_map<K>(type, largest, nan);
    const dim3 grid(grid_x(ceil_div(count, kPatternThreads))), block(kPatternThreads);
    if (groups.m <= 4) {
      launch(nm_groups<K, 4>, grid, block, 0, stream, groups, map);
    } else if (groups.m <= 8) {
      launch(nm_groups<K, 8>, grid, block, 0, stream, groups, map);
    } else if (groups.m <= 16) {
      launch(nm_groups<K, 16>, grid, block, 0, stream, groups, map);
    } else {
      launch(nm_groups<K, 0>, grid, block, 0, stream, groups, map);
    }
  });
}

std::int64_t nm_mask_workspace(const prune::NmOptions& options) {
  return options.nan == prune::Nan::error ? 16 : 0;
}

void nm_mask(const prune::Score& score, std::int64_t n, std::int64_t m,
             const prune::NmOptions& options, const TensorView& out, const TensorView& workspace,
             Stream stream) {
  const detail::Checker check("nm_mask", DeviceType::cuda);
  const detail::Axes axes = detail::check_nm_mask(check, score, n, m, options, out);
  if (score.w.numel() == 0) return;
  check.workspace(workspace, score.w.device, nm_mask_workspace(options));
  const DeviceGuard guard(score.w.device);
  const DType type = detail::key_type(score);
  SelectPart part = part_of(score, type, nullptr, bytes_of(out));
  if (options.nan == prune::Nan::error) {
    refuse_nans(check, "nm_mask", {&part, 1}, type, workspace.data, stream);
  }
  const std::int64_t groups = axes.length / m, rest = axes.length % m;
  const bool flat = rest == 0 && axes.cols == 1;
  NmArgs args{.part = part,
              .parts = flat ? 1 : axes.parts,
              .part_size = axes.length * axes.cols,
              .groups = flat ? groups * axes.parts : groups,
              .cols = axes.cols,
              .offset = 0,
              .n = n,
              .m = m,
              .tie_high = options.tie == prune::Tie::high};
  mark_groups(args, type, true, options.nan, stream);
  if (rest == 0) return;
  args.offset = groups * m * axes.cols;
  args.groups = 1;
  args.m = rest;
  args.n = options.tail == prune::Tail::keep ? rest : std::min(n, rest);
  mark_groups(args, type, true, options.nan, stream);
}

void block_pool(const prune::Score& score, prune::BlockShape block, prune::Reduce reduce,
                const TensorView& out, Stream stream) {
  const detail::Checker check("block_pool", DeviceType::cuda);
  block = detail::check_block_pool(check, score, block, out);
  if (out.numel() == 0) return;
  const DeviceGuard guard(out.device);
  const auto power =
      static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(block.cols)));
  const std::int64_t share = std::min<std::int64_t>(power, kPoolThreads);
  const int turn_bits = std::countr_zero(static_cast<std::uint64_t>(power / share));
  const std::int64_t wide = out.shape[1], groups = ceil_div(wide, kPoolThreads / share);
  const bool direct = detail::is_direct(score);
  const BlockPoolArgs args{
      .score = score_args(score),
      .direct = direct,
      .magnitude = direct && score.kind == prune::ScoreKind::magnitude,
      .reduce = reduce,
      .rows = score.w.shape[0],
      .cols = score.w.shape[1],
      .height = block.rows,
      .width = block.cols,
      .wide = wide,
      .groups = groups,
      .share = static_cast<int>(share),
      .turn_bits = turn_bits,
  };
  const auto pool = [&]<class S>(S* results) {
    const auto stack = static_cast<std::size_t>(turn_bits) * kPoolThreads * sizeof(S);
    launch(block_pool_columns<S>, dim3(grid_x(out.shape[0] * groups)), dim3(kPoolThreads), stack,
           stream, args, results);
  };
  if (out.dtype == DType::f64) {
    pool(static_cast<double*>(out.data));
  } else {
    pool(static_cast<float*>(out.data));
  }
}

void expand_blocks(const TensorView& mask, prune::BlockShape block, const TensorView& out,
                   Stream stream) {
  const detail::Checker check("expand_blocks", DeviceType::cuda);
  block = detail::check_expand_blocks(check, mask, block, out);
  if (out.numel() == 0) return;
  const DeviceGuard guard(out.device);
  const std::int64_t cols = out.shape[1];
  const ExpandBlocksArgs args{.mask = bytes_of(mask),
                              .wide = mask.shape[1],
                              .height = block.rows,
                              .width = block.cols,
                              .out = bytes_of(out),
                              .rows = out.shape[0],
                              .cols = cols,
                              .runs = ceil_div(cols, kExpandRun),
                              .aligned = aligned(out.data, cols, 1, kExpandRun)};
  launch(block_expand_runs, dim3(grid_x(ceil_div(args.rows * args.runs, kPoolThreads))),
         dim3(kPoolThreads), 0, stream, args);
}

}  // namespace gossamer::cuda
