#include "prune/masks.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/work.h"
#include "prune/patterns/kernels.h"

namespace gossamer::detail {
namespace {

bool same_shape(const TensorView& a, const TensorView& b) {
  return a.rank == b.rank && std::equal(a.shape.begin(), a.shape.begin() + a.rank, b.shape.begin());
}

}  // namespace

ScoreTile::ScoreTile(const ScoreTiles& tiles, std::int64_t begin, std::int64_t count)
    : type_(tiles.reader_.direct() ? tiles.score_.w.dtype : dtype_of(tiles.score_)),
      magnitude_(tiles.reader_.direct() && tiles.score_.kind == prune::ScoreKind::magnitude),
      scratch_(tiles.reader_.direct() ? 0 : count * size_of(type_)),
      data_(scratch_.data()) {
  if (tiles.reader_.direct()) {
    data_ = static_cast<const std::byte*>(tiles.score_.w.data) + begin * size_of(type_);
  } else {
    tiles.reader_.read(begin, count, scratch_.data());
  }
}

void check_mask_out(const Checker& check, const prune::Score& score, const TensorView& out) {
  if (out.dtype != DType::boolean && out.dtype != DType::u8) {
    check.type_error(std::string("out.dtype is ") + name_of(out.dtype) + ", expected bool");
  }
  check.device({"out", out}, score.w.device, "score");
  if (!same_shape(out, score.w)) {
    check.value_error("out.shape is " + shape_string(out) + ", expected " + shape_string(score.w));
  }
  require_contiguous(check, {"out", out});
  check_apart(check, score, out);
}

void check_apart(const Checker& check, const prune::Score& score, const TensorView& out) {
  check.writable({"out", out}, {{"score", score.w}});
  for (const auto& x : {score.g, score.m, score.v, score.col}) {
    if (x) check.writable({"out", out}, {{"score", *x}});
  }
}

void require_contiguous(const Checker& check, const Argument& argument) {
  if (argument.view.numel() == 0 || is_contiguous(argument.view)) return;
  check.value_error(std::string(argument.name) + " is strided, expected a contiguous array");
}

void check_nm_sizes(const Checker& check, std::int64_t n, std::int64_t m) {
  if (m < 1) check.value_error("m is " + std::to_string(m) + ", expected at least 1");
  if (n < 0 || n > m) {
    check.value_error("n is " + std::to_string(n) + ", expected 0 to m = " + std::to_string(m));
  }
}

void refuse_nan(const Checker& check, const ScoreTiles& tiles) {
  const std::int64_t size = tiles.size(), pieces = (size + kTaskElements - 1) / kTaskElements;
  std::vector<std::int64_t> found(static_cast<std::size_t>(pieces));
  for_tasks(pieces, 0.2 * static_cast<double>(size), [&](std::int64_t piece) {
    const std::int64_t begin = piece * kTaskElements, count = std::min(kTaskElements, size - begin);
    const ScoreTile tile(tiles, begin, count);
    pattern_kernels().count_nan({.x = tile.data(),
                                 .type = tile.type(),
                                 .count = count,
                                 .found = &found[static_cast<std::size_t>(piece)]});
  });
  std::int64_t total = 0;
  for (const std::int64_t n : found) total += n;
  if (total > 0) {
    check.value_error("score holds " + std::to_string(total) + " NaN, expected none");
  }
}

}  // namespace gossamer::detail
