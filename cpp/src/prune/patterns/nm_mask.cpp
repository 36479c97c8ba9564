#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/floats.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/score.h"
#include "gossamer/prune/patterns.h"
#include "prune/masks.h"
#include "prune/patterns/kernels.h"
#include "prune/select/operands.h"

namespace gossamer::prune {
using namespace detail;
namespace {

/// The groups of one size: `groups` of m elements from `offset` of each part.
struct Section {
  std::int64_t n, m, offset, groups;
};

void mask_section(const ScoreTiles& tiles, const Axes& axes, const Section& section,
                  const NmOptions& options, std::uint8_t* mask) {
  if (section.groups == 0 || axes.parts * axes.cols == 0) return;
  const std::int64_t part = axes.length * axes.cols, group = section.m * axes.cols;
  const std::int64_t size = section.groups * group;
  if (section.n == 0 || section.n == section.m) {
    const int kept = section.n != 0;
    const std::int64_t step = std::max<std::int64_t>(kTaskElements / size, 1);
    for_tasks(
        (axes.parts + step - 1) / step, 0.05 * static_cast<double>(axes.parts * size),
        [&](std::int64_t task) {
          for (std::int64_t o = task * step; o < std::min(axes.parts, (task + 1) * step); ++o) {
            std::memset(mask + o * part + section.offset, kept, static_cast<std::size_t>(size));
          }
        });
    return;
  }
  // A task is some groups of one part, or some parts whole.
  const std::int64_t some =
      std::min(section.groups, std::max<std::int64_t>(kTaskElements / group, 1));
  const std::int64_t cuts = (section.groups + some - 1) / some;
  const std::int64_t parts = cuts > 1 ? 1 : std::max<std::int64_t>(kTaskElements / part, 1);
  const std::int64_t tasks = (axes.parts + parts - 1) / parts * cuts;
  // Scores are read in place, or multiplied by a factor for each column as they are read.
  const Score& score = tiles.score();
  const bool real = dtype_of(score) == score.w.dtype;
  const bool direct = tiles.reader().direct() && (real || section.m < kNmMost);
  const bool product =
      score.kind == ScoreKind::wanda && score.scale == 1.0 && score.w.dtype != DType::f64;
  for_tasks(tasks, 0.3 * static_cast<double>(axes.parts * size), [&](std::int64_t task) {
    const std::int64_t o = task / cuts * parts, g = task % cuts * some;
    const std::int64_t begin = o * part + section.offset + g * group;
    const ScoreTileArgs evaluated = tiles.reader().tile(begin);
    const Scratch keys(nm_scratch(section.m));
    pattern_kernels().nm_mask(
        {.score = evaluated.w,
         .evaluated = direct || product ? nullptr : &evaluated,
         .factor = product ? static_cast<const float*>(evaluated.factor) : nullptr,
         .column = evaluated.column,
         .columns = evaluated.columns,
         .type = direct || product ? score.w.dtype : dtype_of(score),
         .magnitude = product || (direct && score.kind == ScoreKind::magnitude),
         .n = section.n,
         .m = section.m,
         .tie_high = options.tie == Tie::high,
         .nan_high = options.nan == Nan::highest,
         .parts = std::min(parts, axes.parts - o),
         .part = part,
         .groups = std::min(some, section.groups - g),
         .step = axes.cols,
         .cols = axes.cols,
         .mask = mask + begin,
         .scratch = keys.data()});
  });
}

}  // namespace

void nm_mask(const Score& score, std::int64_t n, std::int64_t m, const NmOptions& options,
             const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("nm_mask");
  const Axes whole = check_nm_mask(check, score, n, m, options, out);
  const std::int64_t rest = whole.length % m;
  const ScoreTiles tiles(score);
  if (options.nan == Nan::error) refuse_nan(check, score);

  Axes axes = whole;
  if (rest == 0 && axes.cols == 1) axes = {.parts = 1, .length = whole.parts * whole.length};
  auto* mask = static_cast<std::uint8_t*>(out.data);
  ask_for_huge_pages(mask, out.numel());
  const std::int64_t groups = axes.length / m;
  mask_section(tiles, axes, {.n = n, .m = m, .offset = 0, .groups = groups}, options, mask);
  if (rest == 0) return;
  mask_section(tiles, axes,
               {.n = options.tail == Tail::keep ? rest : std::min(n, rest),
                .m = rest,
                .offset = groups * m * axes.cols,
                .groups = 1},
               options, mask);
}

NmViolations check_nm(const TensorView& x, std::int64_t n, std::int64_t m, int axis) {
  const FloatEnvironment floats;
  const Checker check("check_nm");
  const Axes axes = check_nm_groups(check, x, n, m, axis);
  const std::int64_t part = axes.length * axes.cols;
  if (axes.parts * part == 0) return {};
  // A group is no longer than the axis.
  m = std::min(m, axes.length);
  n = std::min(n, m);
  const std::int64_t groups = axes.length / m, rest = axes.length % m;
  const std::int64_t width = (groups + (rest > 0)) * axes.cols;
  // A task is some parts, or some groups of a single one.
  const std::int64_t group = m * axes.cols;
  const bool single = axes.parts == 1;
  const std::int64_t step = single ? std::max<std::int64_t>(kTaskElements / group, 1)
                                   : std::max<std::int64_t>(kTaskElements / part, 1);
  const std::int64_t tasks = single ? std::max<std::int64_t>((groups + step - 1) / step, 1)
                                    : (axes.parts + step - 1) / step;
  struct Found {
    std::int64_t count, first;
  };
  std::vector<Found> found(static_cast<std::size_t>(tasks));
  for_tasks(tasks, 0.5 * static_cast<double>(axes.parts * part), [&](std::int64_t task) {
    const std::int64_t o = single ? 0 : task * step, g = single ? task * step : 0;
    Found& mine = found[static_cast<std::size_t>(task)];
    const std::int64_t begin = o * part + g * group;
    pattern_kernels().nm_check(
        {.x = static_cast<const std::byte*>(x.data) + begin * size_of(x.dtype),
         .type = x.dtype,
         .n = n,
         .m = m,
         .parts = single ? 1 : std::min(step, axes.parts - o),
         .part = part,
         .groups = single ? std::min(step, groups - g) : groups,
         .step = axes.cols,
         .cols = axes.cols,
         .rest = single && task + 1 < tasks ? 0 : rest,
         .violations = &mine.count,
         .first = &mine.first});
    if (mine.first >= 0) mine.first += o * width + g * axes.cols;
  });
  NmViolations all;
  for (const Found& one : found) {
    all.count += one.count;
    if (!all.first && one.first >= 0) all.first = one.first;
  }
  return all;
}

}  // namespace gossamer::prune
