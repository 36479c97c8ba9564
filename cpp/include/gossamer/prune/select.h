#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "gossamer/prune/score.h"
#include "gossamer/tensor.h"

namespace gossamer::prune {

/// Which of equal scores are taken first: those of smaller or of larger index.
enum class Tie : std::uint8_t { low, high };

/// Where NaN stands in the order of the scores. `error` throws ValueError before anything is
/// written.
enum class Nan : std::uint8_t { lowest, highest, error };

/// The order of scores, in all that follows: -0 = +0, infinities are numbers, every NaN is equal.
struct SelectOptions {
  /// Takes the k largest, else the k smallest.
  bool largest = true;
  Tie tie = Tie::low;
  Nan nan = Nan::lowest;
  MaskFormat format = MaskFormat::bytes;
};

/// Exactly k of all entries of a list of scores, by one order: of equal scores, those of the
/// earlier score and the smaller flat index first (Tie::high: the reverse). `within` is empty, or
/// holds a mask (bool or uint8, of the score's shape) for each score: only its nonzero entries may
/// be taken. `outs` holds a mask for each score: bytes of its shape or packed bits. All is
/// contiguous.
void topk_mask(std::span<const Score> scores, std::int64_t k, const SelectOptions& options,
               std::span<const TensorView> within, std::span<const TensorView> outs);

/// Segments of a score's flat entries: `length` each (the last may be shorter), or, where offsets
/// are given, [offsets[s], offsets[s+1]) with offsets[0] = 0, the last their number.
struct Segments {
  std::int64_t length = 0;
  std::span<const std::int64_t> offsets = {};
};

/// For each segment s, k[s] (k[0] where one is given) of its entries.
void topk_mask(const Score& score, const Segments& segments, std::span<const std::int64_t> k,
               const SelectOptions& options, const std::optional<TensorView>& within,
               const TensorView& out);

/// The k-th score in order, how many come strictly before it, and how many of those equal to it are
/// among the first k.
struct Kth {
  double threshold = 0.0;
  std::int64_t n_strict = 0, n_tie = 0;
};

/// 1 ≤ k ≤ number of entries. Nan::error throws as topk_mask does; options.tie has no effect.
[[nodiscard]] Kth kth(const Score& score, std::int64_t k, const SelectOptions& options);

/// The k-th score in order and the one after it, or the k-th twice where it is the last; both NaN
/// where a score is.
[[nodiscard]] std::array<double, 2> kth_pair(const Score& score, std::int64_t k,
                                             const SelectOptions& options);

/// For each segment. threshold [S] is of dtype_of(score), n_strict and n_tie [S] are int64.
void kth(const Score& score, const Segments& segments, std::span<const std::int64_t> k,
         const SelectOptions& options, const TensorView& threshold, const TensorView& n_strict,
         const TensorView& n_tie);

/// How many entries of a score are NaN.
[[nodiscard]] std::int64_t count_nan(const Score& score);

/// The entries [offset, offset + n) of a whole of `total` ones, by default all of it.
struct Part {
  std::int64_t offset = 0;
  std::optional<std::int64_t> total = {};
};

/// Exactly k entries of the whole that `out` is a part of: those with the largest random keys, of
/// equal keys the smaller flat index i in the whole; only where `within` is nonzero, which a part
/// cannot have. A key has 40 bits of Philox4x32-10 keyed by seed: above, byte i mod 16 of the
/// block of counter (⌊i/16⌋, step); below, word 0 of that of counter (2⁶³ + i, step).
void random_mask(std::int64_t k, std::uint64_t seed, std::uint64_t step,
                 const std::optional<TensorView>& within, const TensorView& out,
                 const Part& part = {});

/// The k entries of each row of x [T, F] (rows may be strided) with the largest key, their columns
/// increasing: values [T, k] of x's type, indices [T, k] of int32. The key is x, or `key` [T, F].
void topk_rows(const TensorView& x, std::int64_t k, const std::optional<TensorView>& key,
               const SelectOptions& options, const TensorView& values, const TensorView& indices);

/// The halves of a selection over scores that several processes hold, each a part of them. Every
/// one makes the same object; until done, it adds up the counts of its scores with the others' and
/// narrows. Then it marks its own share. Bit for bit what topk_mask marks of all scores together,
/// in the order of the processes.
class Selection {
 public:
  /// The scores' type as it is compared: a 16-bit type for values or magnitudes of that type, else
  /// dtype_of(score).
  Selection(std::int64_t k, DType dtype, const SelectOptions& options);

  /// Counts that one round adds up.
  static constexpr std::int64_t kCounts = 4096;

  [[nodiscard]] bool done() const noexcept { return state_.lo == state_.hi; }
  /// counts [kCounts] += those of the score, before done.
  void histogram(const Score& score, std::span<std::int64_t> counts) const;
  /// Takes the sum of all processes' counts.
  void narrow(std::span<const std::int64_t> counts);
  /// After done: how many of the score's entries equal the threshold.
  [[nodiscard]] std::int64_t ties(const Score& score) const;
  /// After done: marks the score's share, where `ties_before` entries equal to the threshold come
  /// earlier (for Tie::high: later) in other scores.
  void emit(const Score& score, std::int64_t ties_before, const TensorView& out) const;
  /// After done: the k-th score.
  [[nodiscard]] double threshold() const;

  /// What is known of the k-th key, for the backends.
  struct State {
    std::int64_t k, above;               // entries above hi
    std::optional<std::int64_t> inside;  // entries in [lo, hi], once counted
    DType dtype;
    SelectOptions options;
    std::uint64_t lo, hi;
    /// Counts are those of bins of 2^shift keys, from lo on.
    [[nodiscard]] int shift() const noexcept {
      int bits = 0;
      while (((hi - lo) >> bits) >= static_cast<std::uint64_t>(kCounts)) ++bits;
      return bits;
    }
  };
  [[nodiscard]] const State& state() const noexcept { return state_; }

 private:
  State state_;
};

}  // namespace gossamer::prune
