// Masks of exactly k entries, and what else such selections give. Arrays and long segments go to
// select.cu; segments that a block or a warp selects from by itself to select_rows.cuh, short
// groups to nm_groups.cuh.

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "base/carver.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "prune/kernels/select_rows.cuh"
#include "prune/nm.h"
#include "prune/select.h"

namespace gossamer::cuda {
namespace {

using detail::Bounds;
using detail::Checker;

/// A segment beyond this length is selected from as a whole array is, by all multiprocessors.
constexpr std::int64_t kLongest = 1 << 18;
/// Segments of up to this length go to a thread each.
constexpr std::int64_t kThreadGroup = 16;

std::int64_t total_of(std::span<const prune::Score> scores) {
  std::int64_t total = 0;
  for (const prune::Score& score : scores) total += score.w.numel();
  return total;
}

template <class K>
void launch_rows(const SelectRowsArgs& args, std::int64_t longest, const KeyMap<K>& map,
                 Stream stream) {
  if (args.rows == 0) return;
  if (longest <= kGroupLength) {
    launch(select_groups<K>, dim3(grid_x(ceil_div(args.rows, kGroupWarps))), dim3(32 * kGroupWarps),
           0, stream, args, map);
  } else if (longest <= kRowThreads * kRowOwn) {
    launch(select_rows<K, kRowThreads>, dim3(grid_x(args.rows)), dim3(kRowThreads), 0, stream, args,
           map);
  } else {
    launch(select_rows<K, kLongRowThreads>, dim3(grid_x(args.rows)), dim3(kLongRowThreads), 0,
           stream, args, map);
  }
}

/// k entries of each segment of a part, whose mask has bytes.
template <class K>
void select_segments(const SelectPart& part, const Bounds& bounds, std::span<const std::int64_t> k,
                     DType type, const prune::SelectOptions& options, void* workspace,
                     Stream stream) {
  const KeyMap<K> map = key_map<K>(type, options.largest, options.nan);
  const bool one = k.size() == 1;
  SelectRowsArgs args{};
  args.part = part;
  args.tie_high = options.tie == prune::Tie::high;
  if (bounds.alike() && one && bounds.length() <= kThreadGroup && part.within == nullptr) {
    const std::int64_t length = bounds.length(), rest = part.count % length;
    for (const bool tail : {false, true}) {
      const NmArgs groups{.part = part,
                          .parts = 1,
                          .part_size = 0,
                          .groups = tail ? 1 : part.count / length,
                          .cols = 1,
                          .offset = tail ? part.count - rest : 0,
                          .n = k[0],
                          .m = tail ? rest : length,
                          .tie_high = args.tie_high};
      mark_groups(groups, type, options.largest, options.nan, stream);
    }
    return;
  }
  if (bounds.alike() && one && bounds.length() <= kLongest) {
    args.rows = bounds.count();
    args.length = bounds.length();
    args.k = k[0];
    launch_rows<K>(args, bounds.length(), map, stream);
    return;
  }
  std::int64_t longest = 0;
  const auto flush = [&] {
    launch_rows<K>(args, longest, map, stream);
    args.rows = longest = 0;
  };
  for (std::int64_t s = 0; s < bounds.count(); ++s) {
    const std::int64_t first = bounds.at(s), count = bounds.at(s + 1) - first;
    const std::int64_t own = k[one ? 0 : static_cast<std::size_t>(s)];
    if (count > kLongest) {
      flush();
      if (own == 0) {
        fill_zero(part.mask + first, count, stream);
        continue;
      }
      SelectPart segment = segment_of(part, first, count);
      select({.parts = {&segment, 1}, .k = own, .type = type, .options = options}, workspace,
             stream);
      continue;
    }
    if (args.rows == kRowList) flush();
    args.first[args.rows] = first;
    args.ks[args.rows] = own;
    args.first[++args.rows] = first + count;
    longest = std::max(longest, count);
  }
  flush();
}

}  // namespace

std::int64_t topk_mask_workspace(std::span<const prune::Score> scores) {
  return select_bytes(total_of(scores), static_cast<std::int64_t>(scores.size()),
                      detail::key_type(scores));
}

void topk_mask(std::span<const prune::Score> scores, std::int64_t k,
               const prune::SelectOptions& options, std::span<const TensorView> within,
               std::span<const TensorView> outs, const TensorView& workspace, Stream stream) {
  const Checker check("topk_mask", DeviceType::cuda);
  const std::int64_t total =
      detail::check_topk_list(check, scores, k, options.format, within, outs);
  if (total == 0) return;
  check.workspace(workspace, scores[0].w.device, topk_mask_workspace(scores));
  const DeviceGuard guard(scores[0].w.device);
  const DType type = detail::key_type(scores);
  std::vector<SelectPart> parts;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    parts.push_back(part_of(scores[i], type, within.empty() ? nullptr : bytes_of(within[i]),
                            bytes_of(outs[i])));
  }
  if (options.nan == prune::Nan::error) {
    refuse_nans(check, "topk_mask", parts, type, workspace.data, stream);
  }
  if (k == 0) {
    for (std::size_t i = 0; i < scores.size(); ++i) {
      fill_zero(outs[i].data, detail::mask_bytes(parts[i].count, options.format), stream);
    }
    return;
  }
  select({.parts = parts, .k = k, .type = type, .options = options}, workspace.data, stream);
}

std::int64_t topk_mask_workspace(const prune::Score& score, prune::MaskFormat format) {
  const std::int64_t n = score.w.numel();
  Carver carver(nullptr);
  carver.take<std::uint8_t>(format == prune::MaskFormat::bytes ? 0 : n);
  carver.take<std::uint8_t>(select_bytes(n, 1, detail::key_type(score)));
  return carver.used();
}

void topk_mask(const prune::Score& score, const prune::Segments& segments,
               std::span<const std::int64_t> k, const prune::SelectOptions& options,
               const std::optional<TensorView>& within, const TensorView& out,
               const TensorView& workspace, Stream stream) {
  const Checker check("topk_mask", DeviceType::cuda);
  detail::check_score(check, score);
  if (within) detail::check_within(check, {"within", *within}, score.w);
  detail::check_selected(check, {"out", out}, score, options.format);
  if (within) check.writable({"out", out}, {{"within", *within}});
  const std::int64_t n = score.w.numel();
  const Bounds bounds(check, segments, n);
  detail::check_counts(check, bounds, k, 0, false,
                       [&](std::int64_t s) { return bounds.at(s + 1) - bounds.at(s); });
  if (n == 0) return;
  check.workspace(workspace, score.w.device, topk_mask_workspace(score, options.format));
  const DeviceGuard guard(score.w.device);
  Carver carver(workspace.data);
  const bool packs = options.format != prune::MaskFormat::bytes;
  auto* unpacked = carver.take<std::uint8_t>(packs ? n : 0);
  void* rest = carver.take_bytes(0);
  const DType type = detail::key_type(score);
  SelectPart part =
      part_of(score, type, within ? bytes_of(*within) : nullptr, packs ? unpacked : bytes_of(out));
  if (options.nan == prune::Nan::error) {
    SelectPart all = part;
    all.within = nullptr;
    refuse_nans(check, "topk_mask", {&all, 1}, type, rest, stream);
  }
  prune::SelectOptions bytes = options;
  bytes.format = prune::MaskFormat::bytes;
  with_key_type(
      type, [&]<class K>(K) { select_segments<K>(part, bounds, k, type, bytes, rest, stream); });
  if (!packs) return;
  const PackBitsArgs args{.bytes = unpacked,
                          .count = n,
                          .out = bytes_of(out),
                          .big = options.format == prune::MaskFormat::big};
  launch(select_pack, dim3(grid_x(ceil_div(n, 8 * kMaskThreads))), dim3(kMaskThreads), 0, stream,
         args);
}

std::int64_t topk_rows_workspace(const TensorView& x, const std::optional<TensorView>& key) {
  const std::int64_t n = x.numel();
  Carver carver(nullptr);
  carver.take<std::uint8_t>(n);
  carver.take<std::uint8_t>(select_bytes(n, 1, (key ? *key : x).dtype));
  return carver.used();
}

void topk_rows(const TensorView& x, std::int64_t k, const std::optional<TensorView>& key,
               const prune::SelectOptions& options, const TensorView& values,
               const TensorView& indices, const TensorView& workspace, Stream stream) {
  const Checker check("topk_rows", DeviceType::cuda);
  detail::check_topk_rows(check, x, k, key, values, indices);
  check.contiguous({"x", x});
  if (key) check.contiguous({"key", *key});
  const std::int64_t rows = x.shape[0], cols = x.shape[1];
  if (rows == 0 || k == 0) return;
  check.workspace(workspace, x.device, topk_rows_workspace(x, key));
  const DeviceGuard guard(x.device);
  Carver carver(workspace.data);
  auto* mask = carver.take<std::uint8_t>(rows * cols);
  void* rest = carver.take_bytes(0);
  const prune::Score score{.w = key ? *key : x, .kind = prune::ScoreKind::value};
  SelectPart part = part_of(score, score.w.dtype, nullptr, mask);
  if (options.nan == prune::Nan::error) {
    refuse_nans(check, "topk_rows", {&part, 1}, score.w.dtype, rest, stream, "key");
  }
  const Bounds bounds(check, {.length = cols}, rows * cols);
  with_key_type(score.w.dtype, [&]<class K>(K) {
    select_segments<K>(part, bounds, {&k, 1}, score.w.dtype, options, rest, stream);
  });
  with_bits_of(x.dtype, [&]<class U>(U) {
    const TakeRowsArgs<U> args{.mask = mask,
                               .from = static_cast<const U*>(x.data),
                               .rows = rows,
                               .cols = cols,
                               .k = k,
                               .values = static_cast<U*>(values.data),
                               .columns = static_cast<int*>(indices.data)};
    launch(select_take<U>, dim3(grid_x(ceil_div(rows, kGroupWarps))), dim3(32 * kGroupWarps), 0,
           stream, args);
  });
}

std::int64_t kth_workspace(const prune::Score& score) {
  return select_bytes(score.w.numel(), 1, detail::key_type(score));
}

namespace {

void check_for_kth(const Checker& check, const char* op, const prune::Score& score, std::int64_t k,
                   const TensorView& workspace, Stream stream) {
  detail::check_kth(check, score, k);
  check.workspace(workspace, score.w.device, kth_workspace(score));
  require_waiting(stream, op, "the k-th score");
}

}  // namespace

prune::Kth kth(const prune::Score& score, std::int64_t k, const prune::SelectOptions& options,
               const TensorView& workspace, Stream stream) {
  const Checker check("kth", DeviceType::cuda);
  check_for_kth(check, "kth", score, k, workspace, stream);
  const DeviceGuard guard(score.w.device);
  const DType type = detail::key_type(score);
  SelectPart part = part_of(score, type, nullptr, nullptr);
  if (options.nan == prune::Nan::error) {
    refuse_nans(check, "kth", {&part, 1}, type, workspace.data, stream);
  }
  return find_kth(part, k, type, options, workspace.data, stream);
}

std::array<double, 2> kth_pair(const prune::Score& score, std::int64_t k,
                               const prune::SelectOptions& options, const TensorView& workspace,
                               Stream stream) {
  const Checker check("kth_pair", DeviceType::cuda);
  check_for_kth(check, "kth_pair", score, k, workspace, stream);
  const DeviceGuard guard(score.w.device);
  const DType type = detail::key_type(score);
  SelectPart part = part_of(score, type, nullptr, nullptr);
  if (count_nans({&part, 1}, type, workspace.data, stream) > 0) {
    constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
    return {kNan, kNan};
  }
  const auto at = [&](std::int64_t rank) {
    return find_kth(part, rank, type, options, workspace.data, stream).threshold;
  };
  const double first = at(k);
  return {first, k < part.count ? at(k + 1) : first};
}

std::int64_t count_nan(const prune::Score& score, const TensorView& workspace, Stream stream) {
  const Checker check("count_nan", DeviceType::cuda);
  detail::check_score(check, score);
  if (score.w.numel() == 0) return 0;
  check.workspace(workspace, score.w.device, kCountNanWorkspace);
  require_waiting(stream, "count_nan", "the number of NaN");
  const DeviceGuard guard(score.w.device);
  const DType type = detail::key_type(score);
  SelectPart part = part_of(score, type, nullptr, nullptr);
  return count_nans({&part, 1}, type, workspace.data, stream);
}

std::int64_t kth_segments_workspace(const prune::Score& score) {
  const std::int64_t n = score.w.numel();
  Carver carver(nullptr);
  carver.take<std::uint8_t>(n);
  carver.take<std::uint8_t>(select_bytes(n, 1, detail::key_type(score)));
  return carver.used();
}

void kth(const prune::Score& score, const prune::Segments& segments,
         std::span<const std::int64_t> k, const prune::SelectOptions& options,
         const TensorView& threshold, const TensorView& n_strict, const TensorView& n_tie,
         const TensorView& workspace, Stream stream) {
  const Checker check("kth", DeviceType::cuda);
  detail::check_score(check, score);
  const std::int64_t n = score.w.numel();
  const Bounds bounds(check, segments, n);
  detail::check_counts(check, bounds, k, 1, false,
                       [&](std::int64_t s) { return bounds.at(s + 1) - bounds.at(s); });
  detail::check_kth_results(check, score, bounds.count(), threshold, n_strict, n_tie);
  if (bounds.count() == 0 || n == 0) return;
  check.workspace(workspace, score.w.device, kth_segments_workspace(score));
  const DeviceGuard guard(score.w.device);
  Carver carver(workspace.data);
  auto* mask = carver.take<std::uint8_t>(n);
  void* rest = carver.take_bytes(0);
  const DType type = detail::key_type(score);
  SelectPart part = part_of(score, type, nullptr, mask);
  if (options.nan == prune::Nan::error) refuse_nans(check, "kth", {&part, 1}, type, rest, stream);
  const bool one = k.size() == 1;
  with_key_type(type, [&]<class K>(K) {
    select_segments<K>(part, bounds, k, type, options, rest, stream);
    SelectKthArgs args{.rows = {},
                       .segment = 0,
                       .threshold = threshold.data,
                       .n_strict = static_cast<std::int64_t*>(n_strict.data),
                       .n_tie = static_cast<std::int64_t*>(n_tie.data),
                       .type = type};
    args.rows.part = part;
    const auto find = [&](std::int64_t count) {
      args.rows.rows = count;
      launch(select_kth<K>, dim3(grid_x(ceil_div(count, kGroupWarps))), dim3(32 * kGroupWarps), 0,
             stream, args, key_map<K>(type, options.largest, options.nan));
    };
    if (bounds.alike() && one) {
      args.rows.length = bounds.length();
      args.rows.k = k[0];
      find(bounds.count());
      return;
    }
    for (; args.segment < bounds.count(); args.segment += kRowList) {
      const std::int64_t count = std::min<std::int64_t>(kRowList, bounds.count() - args.segment);
      for (std::int64_t s = 0; s < count; ++s) {
        args.rows.first[s] = bounds.at(args.segment + s);
        args.rows.ks[s] = k[one ? 0 : static_cast<std::size_t>(args.segment + s)];
      }
      args.rows.first[count] = bounds.at(args.segment + count);
      find(count);
    }
  });
}

std::int64_t random_mask_workspace(const TensorView& out, const prune::Part& part) {
  const std::int64_t n = out.numel(), before = std::max<std::int64_t>(part.offset, 0);
  const std::int64_t total = part.total.value_or(before + n);
  return select_bytes(std::max(total, n), 3, DType::f64);
}

void random_mask(std::int64_t k, std::uint64_t seed, std::uint64_t step,
                 const std::optional<TensorView>& within, const TensorView& out,
                 const prune::Part& part, const TensorView& workspace, Stream stream) {
  const Checker check("random_mask", DeviceType::cuda);
  const std::int64_t total = detail::check_random_mask(check, k, within, out, part);
  detail::check_drawn(check, k, total, false);
  const std::int64_t n = out.numel();
  if (n == 0) return;
  check.workspace(workspace, out.device, random_mask_workspace(out, part));
  const DeviceGuard guard(out.device);
  if (k == 0) return fill_zero(out.data, n, stream);
  const auto entries = [&](std::int64_t first, std::int64_t count, std::uint8_t* mask) {
    SelectPart keys{};
    keys.score.kind = kRandomKey;
    keys.score.seed = seed;
    keys.score.step = step;
    keys.score.column = first;
    keys.score.columns = 1;
    keys.score.scale = 1;
    keys.count = count;
    keys.within = within ? bytes_of(*within) : nullptr;
    keys.mask = mask;
    keys.wide = aligned(mask, 0, 1, 16) && aligned(keys.within, 0, 1, 16);
    return keys;
  };
  const std::int64_t end = part.offset + n;
  SelectPart parts[] = {entries(0, part.offset, nullptr), entries(part.offset, n, bytes_of(out)),
                        entries(end, total - end, nullptr)};
  select({.parts = parts, .k = k, .type = DType::f64, .options = {}}, workspace.data, stream);
}

}  // namespace gossamer::cuda
