#include "gossamer/prune/layerwise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/floats.h"
#include "base/interrupt.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/layerwise_checks.h"
#include "gossamer/detail/shown.h"
#include "prune/layerwise/kernels.h"
#include "prune/norms.h"
#include "prune/select/operands.h"

namespace gossamer::prune {
using namespace detail;
namespace {

std::string number(std::int64_t n) { return std::to_string(n); }

/// Sums of one column, to be merged.
struct Moments {
  double n, sum, sumsq, m2;
};

Moments merged(const Moments& a, const Moments& b) {
  if (a.n == 0) return b;
  if (b.n == 0) return a;
  const double n = a.n + b.n, delta = b.sum / b.n - a.sum / a.n;
  return {n, a.sum + b.sum, a.sumsq + b.sumsq, a.m2 + b.m2 + delta * delta * (a.n * b.n / n)};
}

void merge_column(ColumnStats& into, std::int64_t j, const Moments& from) {
  auto at = [j](const TensorView& view) -> double& { return static_cast<double*>(view.data)[j]; };
  const Moments before{static_cast<double>(into.n), at(into.sum), at(into.sumsq), at(into.m2)};
  const Moments after = merged(before, from);
  at(into.sum) = after.sum;
  at(into.sumsq) = after.sumsq;
  at(into.m2) = after.m2;
}

void* at(const TensorView& view, std::int64_t row, std::int64_t col) {
  return static_cast<std::byte*>(view.data) + (row * view.strides[0] + col) * size_of(view.dtype);
}

}  // namespace

void column_stats_(ColumnStats& stats, const TensorView& x) {
  const FloatEnvironment floats;
  const Checker check("column_stats_");
  const TensorView rows = check_column_stats(check, stats, x);
  const std::int64_t cols = rows.shape[1];
  const std::int64_t n = rows.shape[0];
  if (n == 0) return;

  constexpr std::int64_t kRows = 1024, kCols = 64;
  const std::int64_t segments = ceil_div(n, kRows), strips = ceil_div(cols, kCols);
  const Scratch scratch(segments * cols * 24);
  auto* parts = scratch.as<double>();
  const double work = 0.2 * static_cast<double>(n) * static_cast<double>(cols);
  for_tasks(segments * strips, work, [&](std::int64_t task) {
    const std::int64_t segment = task / strips, col = task % strips * kCols;
    double* part = parts + segment * 3 * cols + col;
    layerwise_kernels().column_stats({.x = at(rows, segment * kRows, col),
                                      .type = x.dtype,
                                      .stride = rows.strides[0],
                                      .rows = std::min(kRows, n - segment * kRows),
                                      .cols = std::min(kCols, cols - col),
                                      .sum = part,
                                      .sumsq = part + cols,
                                      .m2 = part + 2 * cols});
  });
  for (std::int64_t j = 0; j < cols; ++j) {
    Moments total = {};
    for (std::int64_t s = 0; s < segments; ++s) {
      const double* part = parts + s * 3 * cols + j;
      const auto count = static_cast<double>(std::min(kRows, n - s * kRows));
      total = merged(total, {count, part[0], part[cols], part[2 * cols]});
    }
    merge_column(stats, j, total);
  }
  stats.n += n;
}

void merge_(ColumnStats& into, const ColumnStats& from) {
  const FloatEnvironment floats;
  const Checker check("merge_");
  check_merge(check, into, from);
  const std::int64_t cols = into.sum.shape[0];
  const auto value = [](const TensorView& view, std::int64_t j) {
    return static_cast<const double*>(view.data)[j];
  };
  for (std::int64_t j = 0; j < cols; ++j) {
    merge_column(
        into, j,
        {static_cast<double>(from.n), value(from.sum, j), value(from.sumsq, j), value(from.m2, j)});
  }
  into.n += from.n;
}

namespace {

/// The diagonal of u is positive.
void check_diagonal(const Checker& check, const TensorView& u) {
  for (std::int64_t j = 0; j < u.shape[1]; ++j) {
    const double diagonal = u.dtype == DType::f64 ? *static_cast<const double*>(at(u, j, j))
                                                  : *static_cast<const float*>(at(u, j, j));
    if (!(diagonal > 0) || std::isinf(diagonal)) {
      check.value_error("u[" + number(j) + ", " + number(j) + "] is " + shown(diagonal) +
                        ", expected a positive number");
    }
  }
}

/// Copies between w and a working copy of it in the type of sums.
void convert_rows(const TensorView& from, const TensorView& to, bool widens) {
  const std::int64_t rows = from.shape[0], cols = from.shape[1];
  for_tasks(rows, 0.1 * static_cast<double>(rows * cols), [&](std::int64_t row) {
    if (widens) {
      widen(at(from, row, 0), from.dtype, cols, at(to, row, 0));
    } else {
      narrow(at(from, row, 0), cols, at(to, row, 0), to.dtype);
    }
  });
}

/// The columns [col, col + cols) of a matrix.
TensorView columns(const TensorView& view, std::int64_t col, std::int64_t cols) {
  TensorView part = view;
  part.data = at(view, 0, col);
  part.shape[1] = cols;
  return part;
}

/// Keeps the k best of a block: scores into scratch, one selection, its mask into place.
void choose(const Checker& check, const TensorView& w, const TensorView& u, std::int64_t k,
            const TensorView& mask) {
  const std::int64_t rows = w.shape[0], cols = w.shape[1];
  const Scratch scores(rows * cols * size_of(w.dtype));
  const Scratch chosen(rows * cols);
  const TensorView scored = make_view(scores.data(), w.dtype, {rows, cols});
  const TensorView kept = make_view(chosen.data(), DType::u8, {rows, cols});
  const double work = 0.3 * static_cast<double>(rows * cols);
  for_tasks(rows, work, [&](std::int64_t row) {
    layerwise_kernels().obs_score({.w = at(w, row, 0),
                                   .ldw = w.strides[0],
                                   .rows = 1,
                                   .cols = cols,
                                   .u = u.data,
                                   .ldu = u.strides[0],
                                   .scores = at(scored, row, 0),
                                   .ldscores = cols,
                                   .f64 = w.dtype == DType::f64});
  });
  const std::array<Score, 1> score{Score{.w = scored, .kind = ScoreKind::value}};
  topk_masks(check, score, k, {}, {}, std::span<const TensorView>(&kept, 1));
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto* from = static_cast<const std::uint8_t*>(at(kept, row, 0));
    std::copy_n(from, cols, static_cast<std::uint8_t*>(at(mask, row, 0)));
  }
}

/// One block: w, u and mask are its columns; rest and u_rest those to the right of it.
void prune_block(const TensorView& w, const TensorView& u, const TensorView& mask,
                 const std::optional<NmPattern>& nm, const TensorView& err, const TensorView& rest,
                 const TensorView& u_rest) {
  const std::int64_t rows = w.shape[0], cols = w.shape[1];
  const bool f64 = w.dtype == DType::f64;
  constexpr std::int64_t kBlockRows = 8;
  const double inside = 0.05 * static_cast<double>(rows * cols) * static_cast<double>(cols);
  for_tasks(ceil_div(rows, kBlockRows), inside, [&](std::int64_t task) {
    const std::int64_t row = task * kBlockRows;
    layerwise_kernels().obs_block({.w = at(w, row, 0),
                                   .ldw = w.strides[0],
                                   .rows = std::min(kBlockRows, rows - row),
                                   .cols = cols,
                                   .u = u.data,
                                   .ldu = u.strides[0],
                                   .mask = static_cast<std::uint8_t*>(at(mask, row, 0)),
                                   .ldmask = mask.strides[0],
                                   .n = nm ? static_cast<int>(nm->n) : 0,
                                   .m = nm ? static_cast<int>(nm->m) : 0,
                                   .err = at(err, row, 0),
                                   .lderr = err.strides[0],
                                   .f64 = f64});
  });
  // A panel of u is packed once for a tile of rows.
  constexpr std::int64_t kTailRows = 96, kTailCols = 8 * kObsPanel;
  const std::int64_t right = rest.shape[1], pieces = ceil_div(right, kTailCols);
  const double outside = 0.03 * static_cast<double>(rows * cols) * static_cast<double>(right);
  for_tasks(ceil_div(rows, kTailRows) * pieces, outside, [&](std::int64_t task) {
    const std::int64_t row = task / pieces * kTailRows, col = task % pieces * kTailCols;
    const Scratch panel(cols * kObsPanel * (f64 ? 8 : 4));
    layerwise_kernels().obs_tail({.c = at(rest, row, col),
                                  .ldc = rest.strides[0],
                                  .rows = std::min(kTailRows, rows - row),
                                  .cols = std::min(kTailCols, right - col),
                                  .depth = cols,
                                  .err = at(err, row, 0),
                                  .lderr = err.strides[0],
                                  .u = at(u_rest, 0, col),
                                  .ldu = u_rest.strides[0],
                                  .panel = panel.data(),
                                  .f64 = f64});
  });
}

/// obs_prune_, in blocks of `block` columns; with `err`, all errors are written to it.
void prune_columns(const Checker& check, const TensorView& w, const TensorView& u,
                   const TensorView& mask, const ObsOptions& options, std::int64_t block,
                   const TensorView* err) {
  const std::int64_t rows = w.shape[0], cols = w.shape[1];
  if (rows == 0 || cols == 0) return;
  const std::int64_t real = size_of(u.dtype);
  const Scratch copy(rows * cols * real);
  const TensorView work = make_view(copy.data(), u.dtype, {rows, cols});
  convert_rows(w, work, true);

  const std::int64_t multiple = options.nm ? options.nm->m : 1;
  block = ceil_div(std::min(block, cols), multiple) * multiple;
  const Scratch errors(err != nullptr ? 0 : rows * block * real);
  // What columns [0, col) keep: the whole parts of k·col/cols, which end at k.
  const auto kept = [&](std::int64_t col) {
    return *options.k / cols * col + *options.k % cols * col / cols;
  };
  for (std::int64_t col = 0; col < cols; col += block) {
    const std::int64_t width = std::min(block, cols - col), end = col + width;
    const TensorView block_w = columns(work, col, width), block_mask = columns(mask, col, width);
    TensorView u_rows = u;
    u_rows.data = at(u, col, 0);
    u_rows.shape[0] = width;
    const TensorView block_u = columns(u_rows, col, width);
    const TensorView block_err = err != nullptr ? columns(*err, col, width)
                                                : make_view(errors.data(), u.dtype, {rows, width});
    if (options.k) choose(check, block_w, block_u, kept(end) - kept(col), block_mask);
    prune_block(block_w, block_u, block_mask, options.nm, block_err, columns(work, end, cols - end),
                columns(u_rows, end, cols - end));
  }
  const Uninterrupted whole;
  convert_rows(work, w, false);
}

}  // namespace

void obs_prune_(const TensorView& w, const TensorView& u, const TensorView& mask,
                const ObsOptions& options) {
  const FloatEnvironment floats;
  const Checker check("obs_prune_");
  check_obs(check, w, u, mask, options, nullptr);
  check_diagonal(check, u);
  prune_columns(check, w, u, mask, options, options.block, nullptr);
}

void obs_block_(const TensorView& w, const TensorView& u, const TensorView& mask,
                const ObsOptions& options, const TensorView& err) {
  const FloatEnvironment floats;
  const Checker check("obs_block_");
  check_obs(check, w, u, mask, options, &err);
  check_diagonal(check, u);
  prune_columns(check, w, u, mask, options, w.shape[1], &err);
}

namespace {

/// Multiplies factors, by which places are ranked, by the power of two that brings the largest
/// finite one near 1: they are within the range of float32 then.
void bring_near_one(std::vector<double>& factors) {
  double largest = 0;
  for (const double x : factors) largest = std::isfinite(x) ? std::max(largest, x) : largest;
  if (largest == 0) return;
  const int exponent = std::ilogb(largest);
  for (double& x : factors) x = std::ldexp(x, -exponent);
}

}  // namespace

void dsnot_rows_(const TensorView& mask, const TensorView& w, const ColumnStats& stats,
                 const DsnotOptions& options) {
  const FloatEnvironment floats;
  const Checker check("dsnot_rows_");
  check_dsnot(check, mask, w, stats, options);
  const std::int64_t rows = w.shape[0], cols = w.shape[1];
  if (rows == 0 || cols == 0) return;

  const bool f64 = w.dtype == DType::f64;
  const std::int64_t real = f64 ? 8 : 4;
  const Scratch scratch(3 * cols * real);
  const auto put = [&](std::int64_t i, double value) {
    if (f64) {
      scratch.as<double>()[i] = value;
    } else {
      scratch.as<float>()[i] = static_cast<float>(value);
    }
  };
  const auto n = static_cast<double>(stats.n);
  std::vector<double> scales(static_cast<std::size_t>(cols)), norms(scales.size());
  for (std::int64_t j = 0; j < cols; ++j) {
    const auto value = [j](const TensorView& view) {
      return static_cast<const double*>(view.data)[j];
    };
    put(j, value(stats.sum) / n);
    scales[static_cast<std::size_t>(j)] = 1.0 / std::pow(value(stats.m2) / n, options.power);
    norms[static_cast<std::size_t>(j)] = std::sqrt(value(stats.sumsq));
  }
  bring_near_one(scales);
  bring_near_one(norms);
  for (std::int64_t j = 0; j < cols; ++j) {
    put(cols + j, scales[static_cast<std::size_t>(j)]);
    put(2 * cols + j, norms[static_cast<std::size_t>(j)]);
  }
  const std::byte* columns = scratch.data();
  const Scratch swapped(rows * cols);
  const TensorView kept = make_view(swapped.data(), DType::u8, {rows, cols});
  const auto copy_rows = [&](const TensorView& from, const TensorView& to) {
    for (std::int64_t row = 0; row < rows; ++row) {
      std::memcpy(at(to, row, 0), at(from, row, 0), static_cast<std::size_t>(cols));
    }
  };
  copy_rows(mask, kept);
  constexpr std::int64_t kRows = 4;
  const double work = 20.0 * static_cast<double>(rows * cols);
  for_tasks(ceil_div(rows, kRows), work, [&](std::int64_t task) {
    const std::int64_t row = task * kRows;
    const Scratch keys(3 * cols * real);
    layerwise_kernels().dsnot({.w = at(w, row, 0),
                               .type = w.dtype,
                               .ldw = w.strides[0],
                               .mask = static_cast<std::uint8_t*>(at(kept, row, 0)),
                               .ldmask = cols,
                               .rows = std::min(kRows, rows - row),
                               .cols = cols,
                               .mean = columns,
                               .scale = columns + cols * real,
                               .norm = columns + 2 * cols * real,
                               .tolerance = options.tolerance,
                               .steps = options.max_iter,
                               .group = options.group.value_or(0),
                               .same_sign = options.same_sign,
                               .scratch = keys.data(),
                               .f64 = f64});
  });
  copy_rows(kept, mask);
}

namespace {

/// A channel that contributes nothing is never worth its computation.
float threshold_of(double scale, double norm) {
  return norm == 0 ? std::numeric_limits<float>::infinity() : static_cast<float>(scale / norm);
}

}  // namespace

void channel_threshold(const TensorView& squares, double scale, const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("channel_threshold");
  check_channel_threshold(check, squares, out);
  for (std::int64_t j = 0; j < squares.shape[0]; ++j) {
    const double square = squares.dtype == DType::f64 ? static_cast<const double*>(squares.data)[j]
                                                      : static_cast<const float*>(squares.data)[j];
    static_cast<float*>(out.data)[j] = threshold_of(scale, std::sqrt(square));
  }
}

void cett_threshold(const TensorView& w, double t, const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("cett_threshold");
  check_cett_threshold(check, w, t, out);
  const std::int64_t cols = w.shape[1];
  if (cols == 0) return;
  const Scratch scratch(cols * 8);
  auto* norms = scratch.as<double>();
  group_norms({.rows = w, .length = 0, .count = cols}, norms);
  for (std::int64_t j = 0; j < cols; ++j) {
    // As by ColumnStats, whose sums of squares are float32 where they fit.
    const auto square = static_cast<float>(norms[j] * norms[j]);
    const bool rounds = w.dtype != DType::f64 && std::isnormal(square);
    static_cast<float*>(out.data)[j] =
        threshold_of(t, rounds ? std::sqrt(double{square}) : norms[j]);
  }
}

}  // namespace gossamer::prune
