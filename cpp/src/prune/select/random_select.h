#pragma once

// Exact selection by random keys, for random masks and random regrowth (docs/selection.md).

#include <cstdint>

namespace gossamer::detail {

/// Selects the k elements with the largest random keys (simd/philox.h) of [0, total), or of those
/// that are nonzero in `within`; of equal keys the smaller element first. Only the elements [first,
/// first + count) are marked, so that processes can each make their part of one mask.
struct RandomSelection {
  std::uint64_t seed, step;
  std::int64_t total;
  std::int64_t k;              // 1 to candidates
  std::int64_t candidates;     // how many elements are eligible
  const std::uint8_t* within;  // [total] bytes, may be null
  std::int64_t first, count;   // the part that is marked
  std::uint8_t* mask;          // [count]
};

void select_random(const RandomSelection& selection);

}  // namespace gossamer::detail
