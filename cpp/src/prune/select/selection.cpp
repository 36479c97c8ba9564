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

}  // namespace

Selection::Selection(std::int64_t k, DType dtype, const SelectOptions& options)
    : state_{
          .k = k, .above = 0, .inside = {}, .dtype = dtype, .options = options, .lo = 0, .hi = 0} {
  if (!is_floating(dtype)) {
    kCheck.type_error(std::string("dtype is ") + name_of(dtype) + ", expected a floating type");
  }
  if (k < 1) kCheck.value_error("k is " + text_of(k) + ", expected at least 1");
  if (options.nan == Nan::error) {
    kCheck.value_error("nan is 'error', expected 'lowest' or 'highest'");
  }
  state_.hi = max_key(dtype);
}

void Selection::histogram(const Score& score, std::span<std::int64_t> counts) const {
  const FloatEnvironment floats;
  check_open(kCheck, *this, "histogram");
  check_bins(kCheck, counts.size());
  check_part(kCheck, *this, score);
  const KeyStream keys(score, state_.dtype, state_.options);
  count_bins({{&keys, 0, score.w.numel(), nullptr, nullptr}}, state_.lo, state_.hi, state_.shift(),
             counts.data());
}

void Selection::narrow(std::span<const std::int64_t> counts) {
  check_open(kCheck, *this, "narrow");
  check_bins(kCheck, counts.size());
  State& now = state_;
  const int shift = now.shift();
  const std::uint64_t bins = ((now.hi - now.lo) >> shift) + 1;
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
  if (!now.inside && now.k > sum) {
    kCheck.value_error("k is " + text_of(now.k) + ", expected at most the " + text_of(sum) +
                       " entries of all scores");
  }
  if (now.inside && sum != *now.inside) {
    kCheck.value_error("counts add up to " + text_of(sum) + ", expected " + text_of(*now.inside));
  }
  std::int64_t bin = kCounts - 1;
  while (bin > 0 && now.above + counts[static_cast<std::size_t>(bin)] < now.k) {
    now.above += counts[static_cast<std::size_t>(bin--)];
  }
  now.lo += static_cast<std::uint64_t>(bin) << shift;
  now.hi = std::min(now.hi, now.lo + ((std::uint64_t{1} << shift) - 1));
  now.inside = counts[static_cast<std::size_t>(bin)];
}

std::int64_t Selection::ties(const Score& score) const {
  const FloatEnvironment floats;
  check_done(kCheck, *this, "ties");
  check_part(kCheck, *this, score);
  const KeyStream keys(score, state_.dtype, state_.options);
  return count_equal({{&keys, 0, score.w.numel(), nullptr, nullptr}}, state_.lo);
}

void Selection::emit(const Score& score, std::int64_t ties_before, const TensorView& out) const {
  const FloatEnvironment floats;
  const std::int64_t ties = check_emit(kCheck, *this, score, ties_before, out);
  const KeyStream keys(score, state_.dtype, state_.options);
  mark_above({{&keys, 0, score.w.numel(), nullptr, bytes_of(out)}}, state_.lo, ties,
             state_.options.tie, state_.options.format);
}

double Selection::threshold() const {
  const FloatEnvironment floats;
  check_done(kCheck, *this, "threshold");
  return value_of(state_.lo, {.type = state_.dtype,
                              .magnitude = false,
                              .largest = state_.options.largest,
                              .nan_high = state_.options.nan == Nan::highest});
}

}  // namespace gossamer::prune
