#pragma once

// Selection in segments of a score: where they lie, and how the short ones are selected from.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/work.h"
#include "gossamer/prune/select.h"
#include "prune/select/operands.h"
#include "prune/select/selector.h"

namespace gossamer::detail {

/// Segments of at most kSegment elements are each selected from by one thread, in its core's cache.
/// A task has at least kTask elements.
inline constexpr std::int64_t kSegment = 65536;
inline constexpr std::int64_t kTask = 32768;

/// How many elements a task has: enough that its first segment, for which there is no guess, costs
/// little; few enough that all threads have tasks.
inline std::int64_t task_size(std::int64_t n) {
  return std::clamp<std::int64_t>(n / 64, kTask, 1 << 19);
}

/// Runs over all segments. First calls whole(segment) for the long ones, one after the other, since
/// each uses all threads. Then calls in_cache(segment, guess) for the others, many to a task; the
/// guess is handed from segment to segment within the task.
class SegmentPlan {
 public:
  SegmentPlan(const Bounds& bounds, std::span<const std::int64_t> k) : bounds_(bounds), k_(k) {}

  [[nodiscard]] const Bounds& bounds() const { return bounds_; }
  [[nodiscard]] std::int64_t count() const { return bounds_.count(); }
  [[nodiscard]] std::int64_t at(std::int64_t s) const { return bounds_.at(s); }
  [[nodiscard]] std::int64_t length(std::int64_t s) const { return at(s + 1) - at(s); }
  [[nodiscard]] std::int64_t k(std::int64_t s) const {
    return k_[k_.size() == 1 ? 0 : static_cast<std::size_t>(s)];
  }

  template <class Short, class Long>
  void run(Short&& in_cache, Long&& whole) const {
    for (std::int64_t s = 0; s < count(); ++s) {
      if (length(s) > kSegment) whole(s);
    }
    std::vector<std::int64_t> tasks = {0};
    const std::int64_t size = task_size(at(count()));
    for (std::int64_t s = 1, begin = 0; s <= count(); ++s) {
      // A segment costs as much as 64 elements, beside those that it has.
      if (s < count() && at(s) - at(begin) + 64 * (s - begin) < size) continue;
      tasks.push_back(s);
      begin = s;
    }
    parallel_for(static_cast<std::int64_t>(tasks.size()) - 1, [&](std::int64_t task) {
      SegmentGuess guess = {};
      for (std::int64_t s = tasks[static_cast<std::size_t>(task)];
           s < tasks[static_cast<std::size_t>(task) + 1]; ++s) {
        if (length(s) <= kSegment) in_cache(s, guess);
      }
    });
  }

  /// Throws unless there is one k, or one for each segment, each from `least` to the number of
  /// entries that it may select.
  void check_k(const Checker& check, std::int64_t least, const std::uint8_t* within) const;

 private:
  Bounds bounds_;
  std::span<const std::int64_t> k_;
};

/// The column factors of a Wanda score. select_segment multiplies by them itself, so that the
/// scores are not stored anywhere. Empty for other scores.
class Factors {
 public:
  Factors() = default;
  explicit Factors(const prune::Score& score);

  [[nodiscard]] DType type() const { return type_; }
  /// Where the elements from `first` on lie. of() returns their factors; null where there are none,
  /// or where the range goes on in another row.
  [[nodiscard]] const void* data(std::int64_t first) const {
    return data_ + first * size_of(type_);
  }
  [[nodiscard]] const float* of(std::int64_t first, std::int64_t count) const {
    if (data_ == nullptr || first % factor_.size() + count > factor_.size()) return nullptr;
    return factor_.data() + first % factor_.size();
  }

 private:
  DType type_ = DType::f32;
  const std::byte* data_ = nullptr;
  Buffer<float> factor_;
};

/// Where a selection is written as lists, and the array that the values are taken from.
struct Taken {
  std::int32_t* indices = nullptr;
  const void* from = nullptr;
  void* values = nullptr;
  std::int64_t item = 0;
};

/// The k-th key of a segment of at most kSegment elements. Marks in `mask`, or writes the lists of
/// `taken`, where they are given.
KeyRank select_short(const KeyStream& keys, const Factors& factors, std::int64_t first,
                     std::int64_t count, const std::uint8_t* within, std::int64_t k, prune::Tie tie,
                     std::uint8_t* mask, const Taken& taken, SegmentGuess& guess);

}  // namespace gossamer::detail
