#pragma once

// What the backends ask of the operations that make masks. A program that calls the operations
// needs none of this.

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "gossamer/detail/score.h"
#include "gossamer/prune/patterns.h"
#include "gossamer/prune/select.h"

namespace gossamer::detail {

/// Bytes of a mask of n elements.
std::int64_t mask_bytes(std::int64_t n, prune::MaskFormat format);

/// `within` is a contiguous mask of the score's shape.
void check_within(const Checker& check, const Argument& within, const TensorView& score);

/// `out` is a mask of the score's entries in this format, and shares no memory with the score.
void check_selected(const Checker& check, const Argument& out, const prune::Score& score,
                    prune::MaskFormat format);

/// The operands of a selection from a list of scores, but for how many entries of `within` there
/// are. Returns the number of all entries.
std::int64_t check_topk_list(const Checker& check, std::span<const prune::Score> scores,
                             std::int64_t k, prune::MaskFormat format,
                             std::span<const TensorView> within, std::span<const TensorView> outs);

/// The type that a score is compared in when it is alone; that of several: the scores' own where
/// they share it.
DType key_type(const prune::Score& score) noexcept;
DType key_type(std::span<const prune::Score> scores) noexcept;

/// The operands of prune::kth; 1 ≤ k ≤ the number of entries.
void check_kth(const Checker& check, const prune::Score& score, std::int64_t k);
/// The results of prune::kth of `count` segments.
void check_kth_results(const Checker& check, const prune::Score& score, std::int64_t count,
                       const TensorView& threshold, const TensorView& n_strict,
                       const TensorView& n_tie);

/// A step of prune::Selection that comes before done, and one that comes after: `what` says which.
void check_open(const Checker& check, const prune::Selection& selection, const char* what);
void check_done(const Checker& check, const prune::Selection& selection, const char* what);
/// Its score; its counts.
void check_part(const Checker& check, const prune::Selection& selection, const prune::Score& score);
void check_bins(const Checker& check, std::size_t size);
/// Its mask; returns how many ties it marks.
std::int64_t check_emit(const Checker& check, const prune::Selection& selection,
                        const prune::Score& score, std::int64_t ties_before, const TensorView& out);

/// The operands of prune::topk_rows.
void check_topk_rows(const Checker& check, const TensorView& x, std::int64_t k,
                     const std::optional<TensorView>& key, const TensorView& values,
                     const TensorView& indices);

/// The operands of prune::random_mask, but for how many entries of `within` there are. Returns the
/// number of entries of the whole.
std::int64_t check_random_mask(const Checker& check, std::int64_t k,
                               const std::optional<TensorView>& within, const TensorView& out,
                               const prune::Part& part);
/// k is at most `candidates`, those of `within` where it is given.
void check_drawn(const Checker& check, std::int64_t k, std::int64_t candidates, bool within);

/// Where the segments of n entries lie.
class Bounds {
 public:
  Bounds(const Checker& check, const prune::Segments& segments, std::int64_t n);

  [[nodiscard]] std::int64_t count() const {
    return offsets_.empty() ? (n_ + length_ - 1) / length_
                            : static_cast<std::int64_t>(offsets_.size()) - 1;
  }
  [[nodiscard]] std::int64_t at(std::int64_t s) const {
    return offsets_.empty() ? std::min(s * length_, n_) : offsets_[static_cast<std::size_t>(s)];
  }
  /// Whether all segments but the last have the same length.
  [[nodiscard]] bool alike() const { return offsets_.empty(); }
  /// The length of all segments but the last, where they are alike.
  [[nodiscard]] std::int64_t length() const { return length_; }

 private:
  std::span<const std::int64_t> offsets_;
  std::int64_t length_, n_;
};

/// Throws unless there is one k, or one for each segment, each from `least` to most(segment), which
/// is the length of the segment or, `within`, how many entries of it may be selected.
template <class Most>
void check_counts(const Checker& check, const Bounds& bounds, std::span<const std::int64_t> k,
                  std::int64_t least, bool within, Most&& most) {
  const auto text = [](std::int64_t n) { return std::to_string(n); };
  const bool one = k.size() == 1;
  if (!one && static_cast<std::int64_t>(k.size()) != bounds.count()) {
    check.value_error("k.shape is (" + text(static_cast<std::int64_t>(k.size())) +
                      ",), expected one k or one for each of " + text(bounds.count()) +
                      " segments");
  }
  // Where all have the same length and k, checking the first and the last is enough.
  const bool alike = bounds.alike() && one && !within;
  for (std::int64_t s = 0; s < bounds.count();
       s = alike ? std::max(s + 1, bounds.count() - 1) : s + 1) {
    const std::int64_t own = k[one ? 0 : static_cast<std::size_t>(s)], limit = most(s);
    if (own >= least && own <= limit) continue;
    check.value_error(
        (one ? "k" : "k[" + text(s) + "]") + " is " + text(own) + ", expected " + text(least) +
        " to " + text(limit) +
        (within ? ", the entries of within in segment " : ", the length of segment ") + text(s));
  }
}

/// An array as [parts, length, cols], groups along the middle axis.
struct Axes {
  std::int64_t parts = 1, length = 1, cols = 1;
};
Axes axes_of(const Checker& check, const Argument& x, int axis);

/// 0 ≤ n ≤ m, 1 ≤ m.
void check_nm_sizes(const Checker& check, std::int64_t n, std::int64_t m);

/// The operands of prune::check_nm; returns where its groups lie.
Axes check_nm_groups(const Checker& check, const TensorView& x, std::int64_t n, std::int64_t m,
                     int axis);

/// The operands of prune::nm_mask; returns where its groups lie.
Axes check_nm_mask(const Checker& check, const prune::Score& score, std::int64_t n, std::int64_t m,
                   const prune::NmOptions& options, const TensorView& out);

/// The operands of prune::nm_mask_transposable.
void check_transposable(const Checker& check, const prune::Score& score, std::int64_t n,
                        std::int64_t m, const TensorView& out);
/// The operands of prune::vnm_mask.
void check_vnm_mask(const Checker& check, const prune::Score& score, std::int64_t v, std::int64_t n,
                    std::int64_t m, const TensorView& out);

/// The operands of prune::block_pool and prune::expand_blocks; return the block, no larger than the
/// matrix.
prune::BlockShape check_block_pool(const Checker& check, const prune::Score& score,
                                   prune::BlockShape block, const TensorView& out);
prune::BlockShape check_expand_blocks(const Checker& check, const TensorView& mask,
                                      prune::BlockShape block, const TensorView& out);

/// Throws ValueError for an argument `name` that holds `nans` NaN.
void refuse_nan(const Checker& check, std::int64_t nans, const char* name = "score");

}  // namespace gossamer::detail
