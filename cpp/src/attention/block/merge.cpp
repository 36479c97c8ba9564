// Attention over sets of keys that have none in common, from that over each.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "attention/block/problem.h"
#include "attention/block/tile.h"
#include "base/floats.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/attention.h"

namespace gossamer {
using namespace detail;
namespace {

constexpr std::int64_t kRows = 64;

/// [B, S, H, D], or [T, H, D] as one sequence.
TensorView with_batch(const TensorView& x) {
  if (x.rank != 3) return x;
  TensorView result = x;
  result.rank = 4;
  result.shape = {1, x.shape[0], x.shape[1], x.shape[2]};
  result.strides = {0, x.strides[0], x.strides[1], x.strides[2]};
  return result;
}

}  // namespace

void merge_attention(std::span<const TensorView> o_parts, std::span<const TensorView> lse_parts,
                     const TensorView& o, const TensorView& lse) {
  const FloatEnvironment floats;
  const Checker check("merge_attention");
  check_merge_attention(check, o_parts, lse_parts, o, lse);
  if (o.numel() == 0 && lse.numel() == 0) return;
  const TensorView out = with_batch(o);
  const std::int64_t batch = out.shape[0], length = out.shape[1], heads = out.shape[2];
  const std::int64_t depth = out.shape[3], cuts = ceil_div(length, kRows);
  const double work = static_cast<double>(o.numel()) * static_cast<double>(o_parts.size());
  for_tasks(batch * heads * cuts, work, [&](std::int64_t task) {
    const std::int64_t b = task / cuts / heads, h = task / cuts % heads,
                       first = task % cuts * kRows;
    const std::int64_t count = std::min(kRows, length - first);
    const std::int64_t place = (b * heads + h) * length + first;
    const auto row = [&](const TensorView& x) {
      return static_cast<std::byte*>(x.data) +
             (b * x.strides[0] + first * x.strides[1] + h * x.strides[2]) * size_of(x.dtype);
    };
    const Scratch scratch(kRows * depth * 8);
    auto* sums = scratch.as<float>();
    float* part = sums + kRows * depth;
    // The shares come from the sums of weights: the logarithm rounds, and where it is large that is
    // the number of parts, or the half of one.
    float shift[kRows], totals[kRows], logs[kRows];
    for (std::int64_t m = 0; m < count; ++m) {
      float maximum = -kInfinity, total = 0;
      for (const TensorView& log : lse_parts) {
        maximum = std::max(maximum, static_cast<const float*>(log.data)[place + m]);
      }
      shift[m] = std::isinf(maximum) ? 0.0f : maximum;
      for (const TensorView& log : lse_parts) {
        total += std::exp(static_cast<const float*>(log.data)[place + m] - shift[m]);
      }
      totals[m] = total;
      logs[m] = total == 0 ? -kInfinity : shift[m] + std::log(total);
    }
    std::fill_n(sums, count * depth, 0.0f);
    for (std::size_t s = 0; s < o_parts.size(); ++s) {
      const TensorView from = with_batch(o_parts[s]);
      pack_rows(row(from), from.dtype, from.strides[1], count, depth, depth, part);
      const auto* log = static_cast<const float*>(lse_parts[s].data) + place;
      for (std::int64_t m = 0; m < count; ++m) {
        if (log[m] == -kInfinity) continue;
        const float share = std::exp(log[m] - shift[m]) / totals[m];
        for (std::int64_t c = 0; c < depth; ++c) sums[m * depth + c] += share * part[m * depth + c];
      }
    }
    store_rows(sums, depth, count, depth, row(out), out.dtype, out.strides[1]);
    std::copy_n(logs, count, static_cast<float*>(lse.data) + place);
  });
}

}  // namespace gossamer
