#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "gossamer/detail/score.h"
#include "gossamer/prune/score.h"
#include "prune/score/args.h"
#include "prune/select/args.h"
#include "simd/types.h"

namespace gossamer::detail {

/// Evaluates ranges of a score's flat entries. An operation makes one and uses it for all its
/// ranges.
class ScoreReader {
 public:
  explicit ScoreReader(const prune::Score& score);

  [[nodiscard]] bool f64() const noexcept { return f64_; }
  /// Whether the score is the array `w` itself or its absolute value, so that it need not be
  /// evaluated.
  [[nodiscard]] bool direct() const noexcept { return direct_; }
  /// The kernel's arguments for the entries from `first` on; count and out are left to set.
  [[nodiscard]] ScoreTileArgs tile(std::int64_t first) const;
  /// out[i] = score(first + i), as double where f64(), else as float.
  void read(std::int64_t first, std::int64_t count, void* out) const;

 private:
  prune::Score score_;
  bool f64_, direct_;
  std::int64_t columns_ = 1;
  Buffer<std::byte> factor_;
};

}  // namespace gossamer::detail
