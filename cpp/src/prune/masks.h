#pragma once

// What the operations that make structured masks share.

#include <cstdint>

#include "base/scratch.h"
#include "gossamer/detail/mask_checks.h"
#include "gossamer/prune/score.h"
#include "prune/score/score_reader.h"

namespace gossamer::detail {

/// A score that has been checked and outlives this, read in ranges of its flat entries.
class ScoreTiles {
 public:
  explicit ScoreTiles(const prune::Score& score) : score_(score), reader_(score) {}

  [[nodiscard]] std::int64_t size() const noexcept { return score_.w.numel(); }
  [[nodiscard]] const prune::Score& score() const noexcept { return score_; }
  [[nodiscard]] const ScoreReader& reader() const noexcept { return reader_; }

 private:
  friend class ScoreTile;
  const prune::Score& score_;
  ScoreReader reader_;
};

/// Entries [begin, begin+count): the caller's array itself where its values or their magnitudes are
/// the score, else evaluated. A thread may hold one at a time.
class ScoreTile {
 public:
  ScoreTile(const ScoreTiles& tiles, std::int64_t begin, std::int64_t count);

  [[nodiscard]] const void* data() const noexcept { return data_; }
  [[nodiscard]] DType type() const noexcept { return type_; }
  /// The score is the magnitude of what `data` holds.
  [[nodiscard]] bool magnitude() const noexcept { return magnitude_; }

 private:
  DType type_;
  bool magnitude_;
  Scratch scratch_;
  const void* data_;
};

}  // namespace gossamer::detail
