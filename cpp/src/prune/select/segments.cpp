#include "prune/select/segments.h"

#include "base/bits.h"
#include "base/scratch.h"
#include "prune/score/kernels.h"
#include "prune/select/kernels.h"

namespace gossamer::detail {

void SegmentPlan::check_k(const Checker& check, std::int64_t least,
                          const std::uint8_t* within) const {
  check_counts(check, bounds_, k_, least, within != nullptr, [&](std::int64_t s) {
    return within == nullptr ? length(s) : count_nonzero_of(within + at(s), length(s));
  });
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
