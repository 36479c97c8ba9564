#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "gossamer/prune/score.h"
#include "prune/score/args.h"
#include "prune/select/args.h"
#include "simd/types.h"

namespace gossamer::detail {

/// Evaluates ranges of a score's flat entries. Made once an operation.
class ScoreReader {
 public:
  explicit ScoreReader(const Score& score);

  [[nodiscard]] bool f64() const noexcept { return f64_; }
  /// The score is the array `w` itself, or its absolute value.
  [[nodiscard]] bool direct() const noexcept { return direct_; }
  /// What evaluates the entries from `first` on.
  [[nodiscard]] ScoreTileArgs tile(std::int64_t first) const;
  /// out[i] = score(first + i), of float, or of double where f64.
  void read(std::int64_t first, std::int64_t count, void* out) const;

 private:
  Score score_;
  bool f64_, direct_;
  std::int64_t columns_ = 1;
  Buffer<std::byte> factor_;
};

}  // namespace gossamer::detail
