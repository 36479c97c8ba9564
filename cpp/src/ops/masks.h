#pragma once

// What the operations that make structured masks share.

#include <cstdint>

#include "gossamer/check.h"
#include "gossamer/score.h"
#include "ops/score_reader.h"

namespace gossamer {

/// Hands out ranges of a score's flat entries: the caller's array itself where its values or their
/// magnitudes are the score, else an evaluated piece.
class ScoreTiles {
 public:
  struct Tile {
    const void* data;
    DType type;
    bool magnitude;
  };

  /// `score` has been checked and outlives this.
  explicit ScoreTiles(const Score& score) : score_(score), reader_(score) {}

  /// Entries [begin, begin+count). An evaluated tile stands until this thread's next one.
  [[nodiscard]] Tile read(std::int64_t begin, std::int64_t count) const;

  [[nodiscard]] std::int64_t size() const noexcept { return score_.w.numel(); }

 private:
  const Score& score_;
  ScoreReader reader_;
};

/// `out` is a mask that may be written for the score.
void check_mask_out(const Checker& check, const Score& score, const TensorView& out);

void require_contiguous(const Checker& check, const Argument& argument);

/// 0 ≤ n ≤ m, 1 ≤ m.
void check_nm_sizes(const Checker& check, std::int64_t n, std::int64_t m);

/// Throws where the score holds NaN.
void refuse_nan(const Checker& check, const ScoreTiles& tiles);

}  // namespace gossamer
