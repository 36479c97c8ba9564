#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "gossamer/score.h"
#include "gossamer/tensor.h"

namespace gossamer {

/// Which of equal scores are taken first: those of smaller or of larger index.
enum class Tie : std::uint8_t { low, high };

/// Where NaN stands in the order of the scores. `error` throws ValueError before anything is
/// written.
enum class Nan : std::uint8_t { lowest, highest, error };

/// bytes: 0 or 1 for each element (bool or uint8); the others: 8 elements a byte, the first in its
/// lowest (little) or highest bit (big), [⌈n/8⌉] of uint8 with zeros after the last.
enum class MaskFormat : std::uint8_t { bytes, little, big };

/// The order of scores, in all that follows: -0 = +0, infinities are numbers, every NaN is equal.
struct SelectOptions {
  /// Takes the k largest, else the k smallest.
  bool largest = true;
  Tie tie = Tie::low;
  Nan nan = Nan::lowest;
  MaskFormat format = MaskFormat::bytes;
  /// The operation that messages name.
  const char* op = "topk_mask";
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

}  // namespace gossamer
