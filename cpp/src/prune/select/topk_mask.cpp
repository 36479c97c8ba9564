// Masks of exactly k entries. Arrays and long segments go to selector.cpp, shorter segments to the
// kernel select_segment, segments of at most 256 elements to select_groups (docs/selection.md).

#include <algorithm>
#include <string>
#include <vector>

#include "base/bits.h"
#include "base/buffer.h"
#include "base/floats.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/prune/select.h"
#include "prune/select/kernels.h"
#include "prune/select/operands.h"
#include "prune/select/segments.h"
#include "prune/select/selector.h"

namespace gossamer::detail {

void topk_masks(const Checker& check, std::span<const prune::Score> scores, std::int64_t k,
                const prune::SelectOptions& options, std::span<const TensorView> within,
                std::span<const TensorView> outs) {
  const std::size_t count = scores.size();
  const std::int64_t total = check_topk_list(check, scores, k, options.format, within, outs);
  std::int64_t candidates = total;
  if (!within.empty()) {
    candidates = 0;
    for (const TensorView& mask : within) {
      candidates += count_nonzero_of(bytes_of(mask), mask.numel());
    }
    if (k > candidates) {
      check.value_error("k is " + text_of(k) + ", expected at most the " + text_of(candidates) +
                        " entries of within");
    }
  }
  // All are compared in one type: the scores' own where they share it.
  const DType type = key_type(scores);
  std::vector<KeyStream> streams;
  streams.reserve(count);
  std::vector<SelectPart> parts;
  for (std::size_t i = 0; i < count; ++i) {
    streams.emplace_back(scores[i], type, options);
    parts.push_back({.keys = &streams.back(),
                     .first = 0,
                     .count = scores[i].w.numel(),
                     .within = within.empty() ? nullptr : bytes_of(within[i]),
                     .mask = bytes_of(outs[i])});
  }
  if (options.nan == prune::Nan::error) refuse_nan(check, parts);
  const bool all = k == total;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t n = parts[i].count;
    ask_for_huge_pages(outs[i].data, mask_bytes(n, options.format));
    if (k == 0 || all) fill_mask(parts[i].mask, n, all, options.format);
  }
  if (k != 0 && !all) select(parts, candidates, k, options.tie, options.format);
}

}  // namespace gossamer::detail

namespace gossamer::prune {
using namespace detail;
namespace {

/// Marks k entries in each segment of `length` ≤ kGroupLength of n entries.
void select_groups(const KeyStream& keys, std::int64_t n, std::int64_t length,
                   std::span<const std::int64_t> k, Tie tie, std::uint8_t* mask) {
  const std::int64_t together = 64 * length;  // the kernel takes up to 64 segments side by side
  const std::int64_t size = keys.direct() ? task_size(n) : kTask;
  const std::int64_t step = std::max<std::int64_t>(1, size / together) * together;
  parallel_for(ceil_div(n, step), [&](std::int64_t task) {
    const std::int64_t first = task * step, count = std::min(step, n - first);
    const Scratch evaluated(keys.direct() ? 0 : count * keys.item());
    select_kernels().select_groups(
        {.source = {keys.order(), keys.fetch(first, count, evaluated.data()), nullptr, count},
         .length = length,
         .k = k.data() + (k.size() == 1 ? 0 : first / length),
         .one_k = k.size() == 1,
         .tie_high = tie == Tie::high,
         .mask = mask + first});
  });
}

/// Packs bytes that are 0 or 1 into bits.
void pack_bytes(const std::uint8_t* bytes, std::int64_t n, std::uint8_t* out, MaskFormat format) {
  parallel_for(ceil_div(n, kSegment), [&](std::int64_t task) {
    const std::int64_t end = std::min(n, (task + 1) * kSegment);
    for (std::int64_t i = task * kSegment; i < end; i += 8) {
      int bits = 0;
      for (std::int64_t e = 0; e < std::min<std::int64_t>(8, end - i); ++e) {
        const int place = static_cast<int>(format == MaskFormat::little ? e : 7 - e);
        bits |= static_cast<int>(bytes[i + e]) << place;
      }
      out[i / 8] = static_cast<std::uint8_t>(bits);
    }
  });
}

}  // namespace

void topk_mask(std::span<const Score> scores, std::int64_t k, const SelectOptions& options,
               std::span<const TensorView> within, std::span<const TensorView> outs) {
  const FloatEnvironment floats;
  topk_masks(Checker("topk_mask"), scores, k, options, within, outs);
}

void topk_mask(const Score& score, const Segments& segments, std::span<const std::int64_t> k,
               const SelectOptions& options, const std::optional<TensorView>& within,
               const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("topk_mask");
  check_score(check, score);
  if (within) check_within(check, {"within", *within}, score.w);
  check_selected(check, {"out", out}, score, options.format);
  if (within) check.writable({"out", out}, {{"within", *within}});
  const std::int64_t n = score.w.numel();
  const std::uint8_t* allowed = within ? bytes_of(*within) : nullptr;
  const SegmentPlan plan({check, segments, n}, k);
  plan.check_k(check, 0, allowed);
  const KeyStream keys(score, KeyStream::type_of(score), options);
  if (options.nan == Nan::error) refuse_nan(check, {{&keys, 0, n, nullptr, nullptr}});
  const bool packs = options.format != MaskFormat::bytes;
  const Scratch unpacked(packs ? n : 0);
  std::uint8_t* mask = packs ? unpacked.as<std::uint8_t>() : bytes_of(out);
  if (!packs) ask_for_huge_pages(out.data, n);
  const Bounds& bounds = plan.bounds();
  if (bounds.alike() && bounds.length() <= kGroupLength && allowed == nullptr) {
    select_groups(keys, n, bounds.length(), k, options.tie, mask);
    if (packs) pack_bytes(mask, n, bytes_of(out), options.format);
    return;
  }
  const Factors factors(score);
  const auto trivial = [&](std::int64_t s) {
    const std::int64_t count = plan.length(s);
    const bool all = plan.k(s) == count;
    if (plan.k(s) != 0 && !all) return false;
    fill_mask(mask + plan.at(s), count, all && plan.k(s) != 0, MaskFormat::bytes);
    return true;
  };
  plan.run(
      [&](std::int64_t s, SegmentGuess& guess) {
        if (trivial(s)) return;
        select_short(keys, factors, plan.at(s), plan.length(s), allowed, plan.k(s), options.tie,
                     mask + plan.at(s), {}, guess);
      },
      [&](std::int64_t s) {
        if (trivial(s)) return;
        const std::int64_t first = plan.at(s), count = plan.length(s);
        const std::int64_t candidates =
            allowed == nullptr ? count : count_nonzero_of(allowed + first, count);
        select({{&keys, first, count, allowed, mask + first}}, candidates, plan.k(s), options.tie,
               MaskFormat::bytes);
      });
  if (packs) pack_bytes(mask, n, bytes_of(out), options.format);
}

}  // namespace gossamer::prune
