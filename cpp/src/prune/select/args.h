#pragma once

// What the kernels of exact selection take.

#include <cstdint>

#include "gossamer/dtype.h"
#include "simd/types.h"

namespace gossamer::detail {

/// Keys are stored in 64 bits for f64, else in 32.
/// Stores the keys of `chunks` chunks of kSampleChunk elements, at `positions`; *count = their
/// number. The source's own count is not read.
struct SelectSampleArgs {
  KeySource source;
  const std::int64_t* positions;
  std::int64_t chunks;
  void* keys;  // 64 more than there are
  std::int64_t* count;
};
inline constexpr int kSampleChunk = 8;

/// What is known of an undecided element, its candidate: (key - lo) >> shift, below 2^16, in the
/// upper half of 32 bits, and the element's number, below 2^16, in the lower.
inline constexpr int kCandidateBits = 16;

/// Marks keys above `mark`, counts them and those in [lo, hi], and stores the latter's candidates,
/// `base` added to their numbers. Past `capacity` of them it only counts; the array holds 64 more.
struct SelectScanArgs {
  KeySource source;
  std::uint64_t lo, hi, mark;
  MaskTarget mask;
  std::uint32_t* candidates;  // may be null: none is stored
  int shift;
  std::uint32_t base;
  std::int64_t capacity;
  std::int64_t* marked;
  std::int64_t* inside;
  bool* nan;  // set where an element is NaN; may be null
};

/// The keys of the listed elements, or, where none are, of all that count; *stored = their number.
struct SelectKeysArgs {
  KeySource source;
  const std::uint32_t* indices;  // may be null
  std::int64_t count;            // of indices
  void* keys;                    // 64 more than there are
  std::int64_t* stored;
};

/// bins[(key - lo) >> shift] += 1 for keys in [lo, hi]; bins [kHistograms][kSelectBins], to be
/// added.
struct SelectHistogramArgs {
  KeySource source;
  std::uint64_t lo, hi;
  int shift;
  std::uint32_t* bins;
};
inline constexpr int kSelectBins = 4096;
inline constexpr int kHistograms = 4;

/// Marks keys above `threshold`, and of those equal to it `take` after the first `skip`.
struct SelectMarkArgs {
  KeySource source;
  std::uint64_t threshold;
  std::int64_t skip, take;
  MaskTarget mask;
};

/// *nans = NaN among the elements.
struct SelectNansArgs {
  KeySource source;
  std::int64_t* nans;
};

/// What one segment tells of the next: its k-th key, and how far apart keys lie there. A result
/// does not depend on it.
struct SegmentGuess {
  std::int64_t count = 0, k = 0;  // of the segments that it is about; none where count is 0
  std::uint64_t center = 0;
  double spacing = 0.0;
};

/// One segment, small enough for a cache: the k-th key in order, k ≥ 1 at most the elements that
/// count. Marks the k in `mask`, or writes their indices, increasing, and what `from` holds there,
/// `item` bytes each, where given.
/// With `factor`, the elements are of `type`, at most 32 bits wide, and an element's score is the
/// magnitude of its product with the factor, compared in float.
struct SelectSegmentArgs {
  KeySource source;
  const float* factor;  // [count], may be null
  DType type;
  std::int64_t k;
  bool tie_high;
  void* scratch;  // segment_scratch(count, bytes of a stored key)
  std::uint8_t* mask;
  std::int32_t* indices;  // [k + 64], as the values
  const void* from;
  void* values;
  std::int64_t item;
  SegmentGuess* guess;  // is read and updated
  std::uint64_t* threshold;
  std::int64_t* strict;  // keys above the threshold
  std::int64_t* equal;   // keys equal to it
};
/// Words of sets ahead of the keys.
constexpr std::int64_t segment_words(std::int64_t count) {
  return (3 * ((count + 63) / 64) + 2 + 7) / 8 * 8;
}
constexpr std::int64_t segment_scratch(std::int64_t count, std::int64_t item) {
  return 8 * segment_words(count) + 2 * (count + 128) * item;
}

/// Segments of `length` ≤ kGroupLength elements, the last as long as what is left: marks k[s] of
/// the s-th, or k[0] where one_k. All elements count.
struct SelectGroupsArgs {
  KeySource source;
  std::int64_t length;
  const std::int64_t* k;
  bool one_k, tie_high;
  std::uint8_t* mask;
};
inline constexpr int kGroupLength = 256;

/// Elements [first, first + count), none behind the next multiple of kRandomPiece, by their keys
/// (philox.h): marks those above `hi`, counts them, and stores those in [lo, hi], the element's
/// number in 24 bits under the key's 40.
struct RandomScanArgs {
  std::uint64_t seed, step, first;
  std::int64_t count;
  const std::uint8_t* within;  // may be null, as mask
  std::uint8_t* mask;
  std::uint64_t lo, hi;
  std::uint64_t* stored;  // [count + 8]
  std::int64_t* above;
  std::int64_t* inside;
};
inline constexpr int kRandomPiece = 65536;
inline constexpr int kNumberBits = 24;

}  // namespace gossamer::detail
