#pragma once

// Exact selection from arrays of any size: which passes run over the data, and what each leaves for
// the next. docs/selection.md explains the method. The result depends on the operands alone;
// samples and guesses only decide how much work it takes.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gossamer/prune/select.h"
#include "prune/score/score_reader.h"
#include "prune/select/kernels.h"
#include "prune/select/order_statistic.h"

namespace gossamer::detail {

/// Which elements of a stream are eligible: all, or those whose byte is nonzero, or those whose bit
/// is set.
struct Candidates {
  const std::uint8_t* data = nullptr;
  bool bits = false;

  Candidates() = default;
  // NOLINTNEXTLINE: bytes are what callers have.
  Candidates(const std::uint8_t* bytes) : data(bytes) {}
  explicit Candidates(const std::uint64_t* words)
      : data(reinterpret_cast<const std::uint8_t*>(words)), bits(true) {}

  /// The part of the mask that begins at element `first`, a multiple of 8 where the mask has bits.
  [[nodiscard]] const std::uint8_t* from(std::int64_t first) const {
    return data == nullptr ? nullptr : data + (bits ? first / 8 : first);
  }
};

/// The elements of one score as the kernels read them: the caller's array itself where its values
/// or magnitudes are the score ("direct"), else evaluated a tile at a time.
class KeyStream {
 public:
  /// `type` is the type that elements are compared in: the array's own where it is read directly,
  /// else float32 or float64.
  KeyStream(const prune::Score& score, DType type, const prune::SelectOptions& options);

  /// The type that a score is compared in when it is alone.
  static DType type_of(const prune::Score& score) noexcept;

  [[nodiscard]] const KeyOrder& order() const noexcept { return order_; }

  /// Calls f(source, at) for consecutive parts of [first, first + count), in order; `at` is the
  /// part's offset from `first`, a multiple of 64.
  template <class F>
  void read(std::int64_t first, std::int64_t count, const Candidates& within, F&& f) const {
    if (direct_) {
      f(KeySource{order_, data_ + first * item_, within.from(first), count, within.bits},
        std::int64_t{0});
      return;
    }
    alignas(64) std::byte tile[kTileBytes];
    const std::int64_t step = kTileBytes / item_;
    for (std::int64_t at = 0; at < count; at += step) {
      const std::int64_t n = std::min(step, count - at);
      reader_.read(first + at, n, tile);
      f(KeySource{order_, tile, within.from(first + at), n, within.bits}, at);
    }
  }

  /// Elements [first, first + count) as one array: the caller's, or evaluated into `buffer`.
  const void* fetch(std::int64_t first, std::int64_t count, std::byte* buffer) const;
  /// Bytes of one element.
  [[nodiscard]] std::int64_t item() const noexcept { return item_; }
  [[nodiscard]] bool direct() const noexcept { return direct_; }

  /// How many bytes of scores are evaluated at a time.
  static constexpr std::int64_t kTileBytes = 16384;

 private:
  KeyOrder order_ = {};
  const std::byte* data_ = nullptr;
  std::int64_t item_ = 4;
  bool direct_ = false;
  ScoreReader reader_;
};

/// Elements [first, first + count) of a stream, one of the arrays that are selected from together.
struct SelectPart {
  const KeyStream* keys;
  std::int64_t first, count;
  Candidates within;   // points at the stream's element 0
  std::uint8_t* mask;  // points at this part's first element; may be null
};

/// The largest key of a type.
std::uint64_t max_key(DType type) noexcept;
/// The number that a key was made of.
double value_of(std::uint64_t key, const KeyOrder& order) noexcept;

/// The k-th key of the `candidates` eligible elements in all parts, 1 ≤ k ≤ candidates. Marks
/// exactly k elements where parts have masks (bytes or bits). The result says whether
/// there are NaN only where no part has a mask.
KeyRank select(const std::vector<SelectPart>& parts, std::int64_t candidates, std::int64_t k,
               prune::Tie tie, prune::MaskFormat format);

/// Marks the elements with a key above `threshold`, and at most `take` of those with a key equal to
/// it.
void mark_above(const std::vector<SelectPart>& parts, std::uint64_t threshold, std::int64_t take,
                prune::Tie tie, prune::MaskFormat format);

/// counts[(key - lo) >> shift] += 1 for keys in [lo, hi]; counts has kSelectBins entries.
void count_bins(const std::vector<SelectPart>& parts, std::uint64_t lo, std::uint64_t hi, int shift,
                std::int64_t* counts);

/// How many elements have this key.
std::int64_t count_equal(const std::vector<SelectPart>& parts, std::uint64_t key);

/// How many elements are NaN.
std::int64_t count_nans(const std::vector<SelectPart>& parts);

}  // namespace gossamer::detail
