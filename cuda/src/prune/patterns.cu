// Masks with a structure.

#include <algorithm>
#include <bit>
#include <string>

#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "prune/kernels/block_masks.cuh"
#include "prune/kernels/nm_groups.cuh"
#include "prune/kernels/transposable.cuh"
#include "prune/kernels/transposable_flow.cuh"
#include "prune/kernels/vnm_blocks.cuh"
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

namespace {

/// The patterns that keep n of each row and of each column of 4×4.
void fill_patterns(int n, TransposableArgs& args) {
  int columns[kMostSets];
  // In lexicographic order: column 0 is the highest bit of what is counted down.
  for (int reversed = 15; reversed >= 0; --reversed) {
    int set = 0;
    for (int c = 0; c < 4; ++c) set |= (reversed >> (3 - c) & 1) << c;
    if (std::popcount(static_cast<unsigned>(set)) != n) continue;
    args.columns |= static_cast<unsigned long long>(set) << (4 * args.sets);
    columns[args.sets++] = set;
  }
  const int sets = args.sets, all = sets * sets * sets * sets;
  for (int code = 0; code < all; ++code) {
    int taken = 0, pattern = 0;
    for (int r = 0, rest = code; r < 4; ++r, rest /= sets) {
      const int set = rest % sets;
      pattern |= set << (3 * r);
      for (int c = 0; c < 4; ++c) taken += (columns[set] >> c & 1) << (4 * c);
    }
    if (taken == n * 0x1111) args.pattern[args.patterns++] = static_cast<std::uint16_t>(pattern);
  }
}

}  // namespace

void nm_mask_transposable(const prune::Score& score, std::int64_t n, std::int64_t m,
                          prune::MaskMethod method, const TensorView& out, Stream stream) {
  const detail::Checker check("nm_mask_transposable", DeviceType::cuda);
  detail::check_transposable(check, score, n, m, out);
  const std::int64_t size = score.w.numel();
  if (size == 0) return;
  const DeviceGuard guard(out.device);
  if (n == 0) return fill_zero(out.data, size, stream);
  const bool greedy = method == prune::MaskMethod::greedy;
  if (m != 4 || greedy) {
    const std::int64_t stride = m | 1, warps = m <= 32 ? kMostFlowWarps : 1;
    const TransposableFlowArgs args{.score = score_args(score),
                                    .f64 = prune::dtype_of(score) == DType::f64,
                                    .greedy = greedy,
                                    .fine = m == 8,
                                    .n = static_cast<int>(n),
                                    .m = static_cast<int>(m),
                                    .stride = static_cast<int>(stride),
                                    .blocks = size / (m * m),
                                    .wide = score.w.shape[1] / m,
                                    .cols = score.w.shape[1],
                                    .mask = bytes_of(out)};
    launch(m <= 32 ? nm_transposable_flow<1> : nm_transposable_flow<2>,
           dim3(grid_x(ceil_div(args.blocks, warps))), dim3(static_cast<unsigned>(32 * warps)),
           static_cast<std::size_t>(warps * flow_bytes(m, stride)), stream, args);
    return;
  }
  TransposableArgs args{};
  args.score = score_args(score);
  args.f64 = prune::dtype_of(score) == DType::f64;
  args.cols = score.w.shape[1];
  args.wide = args.cols / 4;
  args.blocks = size / 16;
  args.mask = bytes_of(out);
  fill_patterns(static_cast<int>(n), args);
  launch(nm_transposable, dim3(grid_x(ceil_div(args.blocks, kTransposableThreads))),
         dim3(kTransposableThreads), 0, stream, args);
}

void vnm_mask(const prune::Score& score, std::int64_t v, std::int64_t n, std::int64_t m,
              prune::MaskMethod method, const TensorView& out, Stream stream) {
  const detail::Checker check("vnm_mask", DeviceType::cuda);
  detail::check_vnm_mask(check, score, v, n, m, out);
  if (m == 4) return nm_mask(score, n, m, {}, out, {}, stream);
  const std::int64_t size = score.w.numel();
  if (size == 0) return;
  const bool f64 = prune::dtype_of(score) == DType::f64,
             greedy = method == prune::MaskMethod::greedy;
  constexpr std::int64_t kShared = 160 * 1024;  // what both architectures have, but for 3 KB
  const std::int64_t row = (m + (greedy ? n : 0)) * (f64 ? 8 : 4), most = kShared / row - 1;
  if (v > most) {
    check.not_implemented("v is " + std::to_string(v) +
                          ", of which the backend for GPUs has up to " + std::to_string(most) +
                          " for m = " + std::to_string(m));
  }
  const DeviceGuard guard(out.device);
  if (n == 0) return fill_zero(out.data, size, stream);
  const VnmArgs args{.score = score_args(score),
                     .wide = score.w.shape[1] / m,
                     .cols = score.w.shape[1],
                     .v = static_cast<int>(v),
                     .m = static_cast<int>(m),
                     .n = static_cast<int>(n),
                     .greedy = greedy,
                     .mask = bytes_of(out)};
  const dim3 grid(grid_x(size / (v * m))), block(kVnmThreads);
  const auto shared = static_cast<std::size_t>(row * (v + 1));
  if (f64) {
    launch(vnm_blocks<double>, grid, block, shared, stream, args);
  } else {
    launch(vnm_blocks<float>, grid, block, shared, stream, args);
  }
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
