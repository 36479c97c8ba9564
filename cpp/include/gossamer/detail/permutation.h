#pragma once

// Random growth draws the first ranks of a permutation, on every device the same.

#include <bit>
#include <cstdint>

#include "gossamer/detail/philox.h"

namespace gossamer::detail {

/// A permutation of [0, size), keyed by a seed and a step: a Feistel network on the least number of
/// bits that holds size - 1, applied again while its result is not less than size.
class Permutation {
 public:
  Permutation(std::uint64_t size, std::uint64_t seed, std::uint64_t step) : size_(size) {
    const int bits = static_cast<int>(std::bit_width(size > 1 ? size - 1 : 1));
    left_bits_ = bits / 2;
    right_bits_ = bits - left_bits_;
    for (int round = 0; round < kRounds; ++round) {
      // The top of the counter keeps these words apart from those of elements.
      const Philox random = philox(~static_cast<std::uint64_t>(round), step, seed);
      keys_[round] = std::uint64_t{random.word[1]} << 32 | random.word[0];
    }
  }

  GOSSAMER_PHILOX std::uint64_t operator()(std::uint64_t x) const {
    do {
      x = network(x);
    } while (x >= size_);
    return x;
  }

 private:
  // An even number, so that both halves are mixed equally; fewer leave small sizes uneven.
  static constexpr int kRounds = 10;

  GOSSAMER_PHILOX static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
    return x ^ (x >> 32);
  }

  GOSSAMER_PHILOX std::uint64_t network(std::uint64_t x) const {
    const std::uint64_t left_mask = (std::uint64_t{1} << left_bits_) - 1;
    const std::uint64_t right_mask = (std::uint64_t{1} << right_bits_) - 1;
    std::uint64_t left = x >> right_bits_, right = x & right_mask;
    for (int round = 0; round < kRounds; round += 2) {
      left ^= mix(right ^ keys_[round]) & left_mask;
      right ^= mix(left ^ keys_[round + 1]) & right_mask;
    }
    return left << right_bits_ | right;
  }

  std::uint64_t size_;
  int left_bits_, right_bits_;
  std::uint64_t keys_[kRounds];
};

}  // namespace gossamer::detail
