#pragma once

#include <cstdint>

namespace gossamer::detail {

/// A selection of k of [0, total) elements, or of those that count within, by random keys
/// (kernels/philox.h), of equal keys the smaller element first; marked are [first, first + count).
struct RandomSelection {
  std::uint64_t seed, step;
  std::int64_t total;
  std::int64_t k;              // at most candidates
  std::int64_t candidates;     // that count
  const std::uint8_t* within;  // [total] bytes, may be null
  std::int64_t first, count;   // the part that is marked
  std::uint8_t* mask;          // [count]
};

/// k is at least 1.
void select_random(const RandomSelection& selection);

}  // namespace gossamer::detail
