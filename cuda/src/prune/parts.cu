#include <algorithm>

#include "prune/parts.h"

namespace gossamer::cuda {
namespace {

bool is_wide(const SelectPart& part) {
  const auto fits = [](const void* data) { return aligned(data, 0, 1, 16); };
  return fits(part.score.w) && fits(part.within) && fits(part.mask);
}

}  // namespace

ScoreArgs score_args(const prune::Score& score) {
  const detail::ScoreNeeds needs = detail::needs_of(score.kind);
  const bool sum = score.kind == prune::ScoreKind::sum3;
  ScoreArgs args{};
  const auto set = [](bool needed, const std::optional<TensorView>& view, const void*& data,
                      DType& type) {
    if (!needed || !view) return;
    data = view->data;
    type = view->dtype;
  };
  args.w = score.w.data;
  args.w_type = score.w.dtype;
  set(needs.g || sum, score.g, args.g, args.g_type);
  set(needs.m || sum, score.m, args.m, args.m_type);
  set(needs.v, score.v, args.v, args.v_type);
  set(needs.col, score.col, args.col, args.col_type);
  args.columns = needs.col ? std::max<std::int64_t>(score.col->shape[0], 1) : 1;
  args.alpha = score.alpha;
  args.beta = score.beta;
  args.eps = score.eps;
  args.scale = score.scale;
  args.kind = score.kind;
  return args;
}

SelectPart part_of(const prune::Score& score, DType type, const std::uint8_t* within,
                   std::uint8_t* mask) {
  SelectPart part{};
  part.score = score_args(score);
  part.count = score.w.numel();
  part.within = within;
  part.mask = mask;
  part.direct = detail::is_direct(score) && score.w.dtype == type;
  part.magnitude = part.direct && score.kind == prune::ScoreKind::magnitude;
  part.wide = is_wide(part);
  return part;
}

SelectPart segment_of(const SelectPart& part, std::int64_t first, std::int64_t count) {
  SelectPart segment = part;
  const auto skip = [first](const void*& data, DType type) {
    if (data != nullptr) data = static_cast<const std::byte*>(data) + first * size_of(type);
  };
  skip(segment.score.w, segment.score.w_type);
  skip(segment.score.g, segment.score.g_type);
  skip(segment.score.m, segment.score.m_type);
  skip(segment.score.v, segment.score.v_type);
  segment.score.column = (part.score.column + first) % part.score.columns;
  segment.count = count;
  if (segment.within != nullptr) segment.within += first;
  segment.mask += first;
  segment.wide = is_wide(segment);
  return segment;
}

}  // namespace gossamer::cuda
