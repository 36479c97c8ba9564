#include "prune/select/segments.h"

#include <string>

#include "base/bits.h"
#include "base/scratch.h"
#include "prune/score/kernels.h"
#include "prune/select/kernels.h"

namespace gossamer::detail {

void SegmentPlan::check_k(const Checker& check, std::int64_t least,
                          const std::uint8_t* within) const {
  if (k_.size() != 1 && static_cast<std::int64_t>(k_.size()) != count()) {
    check.value_error("k.shape is (" + text_of(static_cast<std::int64_t>(k_.size())) +
                      ",), expected one k or one for each of " + text_of(count()) + " segments");
  }
  // Where all have the same length and k, checking the first and the last is enough.
  const bool alike = bounds_.alike() && k_.size() == 1 && within == nullptr;
  for (std::int64_t s = 0; s < count(); s = alike ? std::max(s + 1, count() - 1) : s + 1) {
    const std::int64_t most =
        within == nullptr ? length(s) : count_nonzero_of(within + at(s), length(s));
    if (k(s) >= least && k(s) <= most) continue;
    check.value_error(
        (k_.size() == 1 ? "k" : "k[" + text_of(s) + "]") + " is " + text_of(k(s)) + ", expected " +
        text_of(least) + " to " + text_of(most) +
        (within == nullptr ? ", the length of segment " : ", the entries of within in segment ") +
        text_of(s));
  }
}

Factors::Factors(const prune::Score& score) : type_(score.w.dtype) {
  if (score.kind != prune::ScoreKind::wanda || score.scale != 1.0 || type_ == DType::f64) return;
  data_ = static_cast<const std::byte*>(score.w.data);
  factor_ = Buffer<float>(score.col->shape[0]);
  score_kernels().score_factor({.x = score.col->data,
                                .type = score.col->dtype,
                                .count = score.col->shape[0],
                                .root = true,
                                .out = factor_.data(),
                                .f64 = false});
}

KeyRank select_short(const KeyStream& keys, const Factors& factors, std::int64_t first,
                     std::int64_t count, const std::uint8_t* within, std::int64_t k, prune::Tie tie,
                     std::uint8_t* mask, const Taken& taken, SegmentGuess& guess) {
  const Scratch scratch(segment_scratch(count, keys.item() == 8 ? 8 : 4));
  const float* factor = factors.of(first, count);
  const bool whole = factor == nullptr && !keys.direct();
  const Scratch evaluated(whole ? count * keys.item() : 0);
  const KeySource source{
      keys.order(),
      factor != nullptr ? factors.data(first) : keys.fetch(first, count, evaluated.data()),
      within != nullptr ? within + first : nullptr, count};
  KeyRank found;
  select_kernels().select_segment({.source = source,
                                   .factor = factor,
                                   .type = factors.type(),
                                   .k = k,
                                   .tie_high = tie == prune::Tie::high,
                                   .scratch = scratch.data(),
                                   .mask = mask,
                                   .indices = taken.indices,
                                   .from = taken.from,
                                   .values = taken.values,
                                   .item = taken.item,
                                   .guess = &guess,
                                   .threshold = &found.key,
                                   .strict = &found.above,
                                   .equal = &found.equal});
  return found;
}

}  // namespace gossamer::detail
