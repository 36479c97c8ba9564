#pragma once

// The engine of exact selection: which passes run over which elements. Results depend on the
// operands alone; samples and thresholds of this file only choose the path.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gossamer/prune/select.h"
#include "prune/score/score_reader.h"
#include "prune/select/kernels.h"
#include "prune/select/order_statistic.h"

namespace gossamer::detail {

/// Which of a stream's elements count: all, or those whose byte is nonzero, or whose bit is.
struct Candidates {
  const std::uint8_t* data = nullptr;
  bool bits = false;

  Candidates() = default;
  // NOLINTNEXTLINE: bytes are what callers have.
  Candidates(const std::uint8_t* bytes) : data(bytes) {}
  explicit Candidates(const std::uint64_t* words)
      : data(reinterpret_cast<const std::uint8_t*>(words)), bits(true) {}

  /// From an element on; of bits, from a multiple of 8.
  [[nodiscard]] const std::uint8_t* from(std::int64_t first) const {
    return data == nullptr ? nullptr : data + (bits ? first / 8 : first);
  }
};

/// One array of keys: a score's entries.
class KeyStream {
 public:
  /// Keys of `type`: of the score's own where it is read directly, else float32 or float64.
  KeyStream(const Score& score, DType type, const SelectOptions& options);

  /// The type that a score is compared in where no other asks for a wider one.
  static DType type_of(const Score& score) noexcept;

  [[nodiscard]] const KeyOrder& order() const noexcept { return order_; }

  /// Calls f(source, at) for parts that make up [first, first + count), in order; `at` counts from
  /// `first` and is a multiple of 64.
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

  /// Elements [first, first + count) as one array: in place, or evaluated into `buffer`.
  const void* fetch(std::int64_t first, std::int64_t count, std::byte* buffer) const;
  /// Bytes of one element.
  [[nodiscard]] std::int64_t item() const noexcept { return item_; }
  [[nodiscard]] bool direct() const noexcept { return direct_; }

  /// What is evaluated at once.
  static constexpr std::int64_t kTileBytes = 16384;

 private:
  KeyOrder order_ = {};
  const std::byte* data_ = nullptr;
  std::int64_t item_ = 4;
  bool direct_ = false;
  ScoreReader reader_;
};

/// A part of what is selected from: elements [first, first + count) of a stream.
struct SelectPart {
  const KeyStream* keys;
  std::int64_t first, count;
  Candidates within;   // of the stream's element 0
  std::uint8_t* mask;  // of the part's first element; may be null
};

/// The largest key of a type.
std::uint64_t max_key(DType type) noexcept;
/// The number that a key stands for.
double value_of(std::uint64_t key, const KeyOrder& order) noexcept;

/// The k-th key of `candidates` elements that count in all parts, 1 ≤ k ≤ candidates; marks exactly
/// k where parts have masks (bytes where packing is 0, see MaskTarget). Tells of NaN where none
/// has.
KeyRank select(const std::vector<SelectPart>& parts, std::int64_t candidates, std::int64_t k,
               Tie tie, int packing);

/// Marks keys above a threshold, and at most `take` of those equal to it.
void mark_above(const std::vector<SelectPart>& parts, std::uint64_t threshold, std::int64_t take,
                Tie tie, int packing);

/// counts [kSelectBins] of (key - lo) >> shift for keys in [lo, hi].
void count_bins(const std::vector<SelectPart>& parts, std::uint64_t lo, std::uint64_t hi, int shift,
                std::int64_t* counts);

/// How many elements have a key.
std::int64_t count_equal(const std::vector<SelectPart>& parts, std::uint64_t key);

/// How many elements are NaN.
std::int64_t count_nans(const std::vector<SelectPart>& parts);
/// How many of n bytes are nonzero.
std::int64_t count_nonzero(const std::uint8_t* bytes, std::int64_t n);

}  // namespace gossamer::detail
