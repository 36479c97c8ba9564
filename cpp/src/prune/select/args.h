#pragma once

// What the kernels of exact selection take; docs/selection.md explains how they work together. An
// element is "eligible" if `within` of its source allows it to be selected.

#include <cstdint>

#include "gossamer/dtype.h"
#include "simd/types.h"

namespace gossamer::detail {

/// Stores the keys of the eligible elements in `chunks` chunks of kSampleChunk consecutive elements
/// that begin at `positions`; *count = how many keys were stored. source.count is not used.
///
/// Here and below, a stored key has 64 bits for float64 elements, else 32.
struct SelectSampleArgs {
  KeySource source;
  const std::int64_t* positions;
  std::int64_t chunks;
  void* keys;  // room for 64 more keys than are stored
  std::int64_t* count;
};
inline constexpr int kSampleChunk = 8;

/// A candidate is an element whose key lies in [lo, hi], packed into 32 bits: the upper half is
/// (key - lo) >> shift, the lower half the element's number within its piece; both are below 2^16.
inline constexpr int kCandidateBits = 16;

/// Marks the eligible elements whose key is above `mark`, counts them, counts those with a key in
/// [lo, hi], and stores the latter as candidates, numbered from `base`. Once more than `capacity`
/// candidates were found, the rest is only counted; the array has room for 64 beyond `capacity`.
struct SelectScanArgs {
  KeySource source;
  std::uint64_t lo, hi, mark;
  MaskTarget mask;
  std::uint32_t* candidates;  // null: candidates are only counted
  int shift;
  std::uint32_t base;
  std::int64_t capacity;
  std::int64_t* marked;
  std::int64_t* inside;
  bool* nan;  // set to whether any element is NaN; may be null
};

/// Stores the keys of the elements listed in `indices`, or, where that is null, of all eligible
/// elements; *stored = how many.
struct SelectKeysArgs {
  KeySource source;
  const std::uint32_t* indices;  // may be null
  std::int64_t count;            // length of `indices`
  void* keys;                    // room for 64 more keys than are stored
  std::int64_t* stored;
};

/// Adds one to bin (key - lo) >> shift for each eligible element with a key in [lo, hi]. bins is
/// [kHistograms][kSelectBins]; the histogram is the sum over the first axis (several copies, so
/// that two neighbours with equal keys do not wait for each other's increment).
struct SelectHistogramArgs {
  KeySource source;
  std::uint64_t lo, hi;
  int shift;
  std::uint32_t* bins;
};
inline constexpr int kSelectBins = 4096;
inline constexpr int kHistograms = 4;

/// Marks the eligible elements with a key above `threshold`. Of those with a key equal to it, skips
/// the first `skip`, then marks `take`. Unmarks all others.
struct SelectMarkArgs {
  KeySource source;
  std::uint64_t threshold;
  std::int64_t skip, take;
  MaskTarget mask;
};

/// *nans = how many eligible elements are NaN.
struct SelectNansArgs {
  KeySource source;
  std::int64_t* nans;
};

/// What selecting from one segment says about the next one in the same task: the k-th key and the
/// mean distance between neighbouring keys around it. It only speeds the search up; no result
/// depends on it.
struct SegmentGuess {
  std::int64_t count = 0, k = 0;  // of the segment that it came from; count = 0: there was none
  std::uint64_t center = 0;
  double spacing = 0.0;
};

/// Finds the k-th key of one segment that fits in a core's cache; 1 ≤ k ≤ the number of eligible
/// elements. Marks the k selected elements in `mask`, or writes their indices in increasing order
/// together with the elements of `from` at these indices (`item` bytes each). Either output may be
/// null.
///
/// With `factor`, the elements have `type` (at most 32 bits), and the score of element i is |x[i] ·
/// factor[i]|, computed and compared in float.
struct SelectSegmentArgs {
  KeySource source;
  const float* factor;  // [count], may be null
  DType type;
  std::int64_t k;
  bool tie_high;
  void* scratch;  // of segment_scratch(count, bytes of a stored key) bytes
  std::uint8_t* mask;
  std::int32_t* indices;  // room for k + 64 entries, as `values`
  const void* from;
  void* values;
  std::int64_t item;
  SegmentGuess* guess;  // read and updated
  std::uint64_t* threshold;
  std::int64_t* strict;  // how many keys are above the threshold
  std::int64_t* equal;   // how many keys equal the threshold
};
/// How many 64-bit words the scratch memory holds ahead of the keys: for each block, which elements
/// are above the interval and which inside, then one bit for each key inside.
static constexpr std::int64_t segment_words(std::int64_t count) {
  return (3 * ((count + 63) / 64) + 2 + 7) / 8 * 8;
}
static constexpr std::int64_t segment_scratch(std::int64_t count, std::int64_t item) {
  return 8 * segment_words(count) + 2 * (count + 128) * item;
}

/// Selects from many segments of `length` ≤ kGroupLength elements (the last one may be shorter):
/// marks k[s] elements of segment s, or k[0] of each where one_k is set. All elements are eligible.
struct SelectGroupsArgs {
  KeySource source;
  std::int64_t length;
  const std::int64_t* k;
  bool one_k, tie_high;
  std::uint8_t* mask;
};
inline constexpr int kGroupLength = 256;

/// For elements [first, first + count), which do not cross a multiple of kRandomPiece: makes their
/// random keys (simd/philox.h), marks and counts those above `hi`, and stores those in [lo, hi] as
/// key << kNumberBits | (element - first).
struct RandomScanArgs {
  std::uint64_t seed, step, first;
  std::int64_t count;
  const std::uint8_t* within;  // may be null, as may mask
  std::uint8_t* mask;
  std::uint64_t lo, hi;
  std::uint64_t* stored;  // room for count + 8
  std::int64_t* above;
  std::int64_t* inside;
};
inline constexpr int kRandomPiece = 65536;
inline constexpr int kNumberBits = 24;

}  // namespace gossamer::detail
