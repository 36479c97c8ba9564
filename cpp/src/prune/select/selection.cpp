// A selection over scores that several processes hold: each counts by bins, the sums narrow the
// interval of the k-th key.

#include <algorithm>
#include <limits>
#include <string>

#include "base/floats.h"
#include "gossamer/prune/select.h"
#include "prune/select/operands.h"
#include "prune/select/selector.h"

namespace gossamer::prune {
using namespace detail;
namespace {

const Checker kCheck("Selection");

/// This process's part of the scores, compared in `type`.
KeyStream stream_of(const Score& score, DType type, const SelectOptions& options) {
  check_score(kCheck, score);
  const DType own = KeyStream::type_of(score);
  if (own != type && dtype_of(score) != type) {
    kCheck.type_error(std::string("score is compared in ") + name_of(own) +
                      ", expected the selection's dtype = " + name_of(type));
  }
  return {score, type, options};
}

void check_counts(std::size_t size) {
  if (size == static_cast<std::size_t>(Selection::kCounts)) return;
  kCheck.value_error("counts.shape is (" + std::to_string(size) + ",), expected (4096,)");
}

void require(bool done, const char* what) {
  if (done) return;
  kCheck.value_error(std::string(what) + " is asked for before done, expected more rounds of " +
                     "histogram and narrow");
}

void refuse_done(bool done, const char* what) {
  if (done) kCheck.value_error(std::string(what) + " is called after done, expected emit");
}

}  // namespace

Selection::Selection(std::int64_t k, DType dtype, const SelectOptions& options)
    : k_(k), dtype_(dtype), options_(options) {
  if (!is_floating(dtype)) {
    kCheck.type_error(std::string("dtype is ") + name_of(dtype) + ", expected a floating type");
  }
  if (k < 1) kCheck.value_error("k is " + text_of(k) + ", expected at least 1");
  if (options.nan == Nan::error) {
    kCheck.value_error("nan is 'error', expected 'lowest' or 'highest'");
  }
  hi_ = max_key(dtype);
}

void Selection::histogram(const Score& score, std::span<std::int64_t> counts) const {
  const FloatEnvironment floats;
  refuse_done(done(), "histogram");
  check_counts(counts.size());
  const KeyStream keys = stream_of(score, dtype_, options_);
  count_bins({{&keys, 0, score.w.numel(), nullptr, nullptr}}, lo_, hi_, bin_shift(lo_, hi_),
             counts.data());
}

void Selection::narrow(std::span<const std::int64_t> counts) {
  refuse_done(done(), "narrow");
  check_counts(counts.size());
  const int shift = bin_shift(lo_, hi_);
  const std::uint64_t bins = ((hi_ - lo_) >> shift) + 1;
  std::int64_t sum = 0;
  for (std::size_t bin = 0; bin < counts.size(); ++bin) {
    const std::int64_t most =
        bin < bins ? std::numeric_limits<std::int64_t>::max() - sum : std::int64_t{0};
    if (counts[bin] < 0 || counts[bin] > most) {
      kCheck.value_error("counts[" + std::to_string(bin) + "] is " + text_of(counts[bin]) +
                         ", expected 0 to " + text_of(most));
    }
    sum += counts[bin];
  }
  if (!inside_ && k_ > sum) {
    kCheck.value_error("k is " + text_of(k_) + ", expected at most the " + text_of(sum) +
                       " entries of all scores");
  }
  if (inside_ && sum != *inside_) {
    kCheck.value_error("counts add up to " + text_of(sum) + ", expected " + text_of(*inside_));
  }
  std::int64_t bin = kCounts - 1;
  while (bin > 0 && above_ + counts[static_cast<std::size_t>(bin)] < k_) {
    above_ += counts[static_cast<std::size_t>(bin--)];
  }
  lo_ += static_cast<std::uint64_t>(bin) << shift;
  hi_ = std::min(hi_, lo_ + ((std::uint64_t{1} << shift) - 1));
  inside_ = counts[static_cast<std::size_t>(bin)];
}

std::int64_t Selection::ties(const Score& score) const {
  const FloatEnvironment floats;
  require(done(), "ties");
  const KeyStream keys = stream_of(score, dtype_, options_);
  return count_equal({{&keys, 0, score.w.numel(), nullptr, nullptr}}, lo_);
}

void Selection::emit(const Score& score, std::int64_t ties_before, const TensorView& out) const {
  const FloatEnvironment floats;
  require(done(), "emit");
  const std::int64_t most = inside_.value_or(0);
  if (ties_before < 0 || ties_before > most) {
    kCheck.value_error("ties_before is " + text_of(ties_before) + ", expected 0 to " +
                       text_of(most) + ", the entries that equal the threshold");
  }
  const KeyStream keys = stream_of(score, dtype_, options_);
  check_selected(kCheck, {"out", out}, score, options_.format);
  mark_above({{&keys, 0, score.w.numel(), nullptr, bytes_of(out)}}, lo_,
             std::max<std::int64_t>(0, k_ - above_ - ties_before), options_.tie, options_.format);
}

double Selection::threshold() const {
  const FloatEnvironment floats;
  require(done(), "threshold");
  return value_of(lo_, {.type = dtype_,
                        .magnitude = false,
                        .largest = options_.largest,
                        .nan_high = options_.nan == Nan::highest});
}

}  // namespace gossamer::prune
