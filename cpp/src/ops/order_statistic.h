#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "kernels/select_args.h"

namespace gossamer {

using kernels::kSelectBins;

/// A key in the order of selection: how many are above it and equal to it.
struct KeyRank {
  std::uint64_t key = 0;
  std::int64_t above = 0, equal = 0;
  /// The greatest key below it, where that was met.
  std::optional<std::uint64_t> next = {};
};

/// The shift that makes at most kSelectBins bins of [lo, hi].
inline int bin_shift(std::uint64_t lo, std::uint64_t hi) noexcept {
  int shift = 0;
  while (((hi - lo) >> shift) >= static_cast<std::uint64_t>(kernels::kSelectBins)) ++shift;
  return shift;
}

/// The bin that holds the rank-th key from the top, and the keys in bins above it.
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

/// The rank-th largest of n keys in [lo, hi], which are not moved.
template <class S>
KeyRank order_statistic(const S* keys, std::int64_t n, std::int64_t rank, std::uint64_t lo,
                        std::uint64_t hi) {
  const int shift = bin_shift(lo, hi);
  std::vector<std::uint32_t> bins(kSelectBins, 0);
  for (std::int64_t i = 0; i < n; ++i) ++bins[static_cast<std::size_t>((keys[i] - lo) >> shift)];
  const Bin bin = find_bin(bins.data(), rank);
  std::vector<S> in_bin;
  in_bin.reserve(bins[static_cast<std::size_t>(bin.index)]);
  for (std::int64_t i = 0; i < n; ++i) {
    if (static_cast<std::int64_t>((keys[i] - lo) >> shift) == bin.index) in_bin.push_back(keys[i]);
  }
  const auto at = in_bin.begin() + (rank - bin.above - 1);
  std::nth_element(in_bin.begin(), at, in_bin.end(), std::greater<>());
  KeyRank result{*at, bin.above, 0};
  for (const S key : in_bin) {
    result.above += key > result.key;
    result.equal += key == result.key;
  }
  return result;
}

}  // namespace gossamer
