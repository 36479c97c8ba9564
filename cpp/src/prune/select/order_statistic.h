#pragma once

// The k-th largest of a list of keys by one histogram and std::nth_element within a bin. Used on
// samples and on what the passes over the data leave undecided (docs/selection.md).

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "prune/select/args.h"

namespace gossamer::detail {

/// A key, how many keys are above it, and how many equal it.
struct KeyRank {
  std::uint64_t key = 0;
  std::int64_t above = 0, equal = 0;
  /// The greatest key below it, where the search came across it.
  std::optional<std::uint64_t> next = {};
  /// Whether any element is NaN.
  bool nan = false;
};

/// The smallest shift for which [lo, hi] falls into at most kSelectBins bins of 2^shift keys.
inline int bin_shift(std::uint64_t lo, std::uint64_t hi) noexcept {
  int shift = 0;
  while (((hi - lo) >> shift) >= static_cast<std::uint64_t>(kSelectBins)) ++shift;
  return shift;
}

/// The bin in which the rank-th largest key lies, and how many keys are in the bins above it.
struct Bin {
  std::int64_t index, above;
};

template <class Count>
Bin find_bin(const Count* bins, std::int64_t rank) {
  std::int64_t above = 0, index = kSelectBins - 1;
  while (index > 0 && above + static_cast<std::int64_t>(bins[index]) < rank) {
    above += static_cast<std::int64_t>(bins[index--]);
  }
  return {index, above};
}

/// For each of the increasing `ranks`, the rank-th largest of n keys in [lo, hi]. The keys are not
/// reordered.
template <class S, std::size_t Ranks>
std::array<KeyRank, Ranks> order_statistics(const S* keys, std::int64_t n,
                                            const std::array<std::int64_t, Ranks>& ranks,
                                            std::uint64_t lo, std::uint64_t hi) {
  const int shift = bin_shift(lo, hi);
  std::vector<std::uint32_t> bins(2 * kSelectBins, 0);
  for (std::int64_t i = 0; i < n; ++i) {
    ++bins[static_cast<std::size_t>((keys[i] - lo) >> shift) + (i % 2 == 0 ? 0 : kSelectBins)];
  }
  for (std::size_t b = 0; b < kSelectBins; ++b) bins[b] += bins[b + kSelectBins];
  const Bin first = find_bin(bins.data(), ranks.front());
  const Bin last = find_bin(bins.data(), ranks.back());
  // Collect the keys of all bins from the first rank's down to the last rank's.
  const auto least = static_cast<S>(last.index);
  const auto width = static_cast<S>(first.index - last.index);
  std::vector<S> near;
  near.reserve(static_cast<std::size_t>(last.above - first.above) +
               bins[static_cast<std::size_t>(last.index)]);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto bin = static_cast<S>(static_cast<S>(keys[i] - lo) >> shift);
    if (static_cast<S>(bin - least) <= width) near.push_back(keys[i]);
  }
  std::array<KeyRank, Ranks> results;
  auto begin = near.begin();
  for (std::size_t r = 0; r < Ranks; ++r) {
    const auto at = near.begin() + (ranks[r] - first.above - 1);
    std::nth_element(begin, at, near.end(), std::greater<>());
    results[r] = {*at, first.above, 0};
    begin = at;
    for (const S key : near) {
      results[r].above += key > *at;
      results[r].equal += key == *at;
    }
  }
  return results;
}

template <class S>
KeyRank order_statistic(const S* keys, std::int64_t n, std::int64_t rank, std::uint64_t lo,
                        std::uint64_t hi) {
  return order_statistics<S, 1>(keys, n, {rank}, lo, hi)[0];
}

}  // namespace gossamer::detail
