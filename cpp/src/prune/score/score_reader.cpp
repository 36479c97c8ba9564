#include "prune/score/score_reader.h"

#include <algorithm>

#include "prune/score/kernels.h"

namespace gossamer::detail {

ScoreReader::ScoreReader(const prune::Score& score)
    : score_(score), f64_(score.w.dtype == DType::f64), direct_(is_direct(score)) {
  // Operands that the formula does not read are ignored.
  const ScoreNeeds needs = needs_of(score.kind);
  if (score.kind != prune::ScoreKind::sum3) {
    if (!needs.g) score_.g.reset();
    if (!needs.m) score_.m.reset();
    if (!needs.v) score_.v.reset();
  }
  if (!needs.col) return;
  columns_ = std::max<std::int64_t>(score.col->shape[0], 1);
  factor_ = Buffer<std::byte>(columns_ * (f64_ ? 8 : 4));
  score_kernels().score_factor({.x = score.col->data,
                                .type = score.col->dtype,
                                .count = score.col->shape[0],
                                .root = score.kind == prune::ScoreKind::wanda,
                                .out = factor_.data(),
                                .f64 = f64_});
}

ScoreTileArgs ScoreReader::tile(std::int64_t first) const {
  const auto at = [&](const std::optional<TensorView>& x) -> const void* {
    if (!x) return nullptr;
    return static_cast<const std::byte*>(x->data) + first * size_of(x->dtype);
  };
  const auto type = [](const std::optional<TensorView>& x) { return x ? x->dtype : DType::f32; };
  return {.kind = score_.kind,
          .w = at(score_.w),
          .g = at(score_.g),
          .m = at(score_.m),
          .v = at(score_.v),
          .w_type = score_.w.dtype,
          .g_type = type(score_.g),
          .m_type = type(score_.m),
          .v_type = type(score_.v),
          .factor = factor_.data(),
          .column = first % columns_,
          .columns = columns_,
          .count = 0,
          .alpha = score_.alpha,
          .beta = score_.beta,
          .eps = score_.eps,
          .scale = score_.scale,
          .out = nullptr,
          .f64 = f64_};
}

void ScoreReader::read(std::int64_t first, std::int64_t count, void* out) const {
  ScoreTileArgs args = tile(first);
  args.count = count;
  args.out = out;
  score_kernels().score_tile(args);
}

}  // namespace gossamer::detail
