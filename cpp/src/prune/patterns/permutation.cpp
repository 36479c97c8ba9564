#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/floats.h"
#include "base/interrupt.h"
#include "base/numbers.h"
#include "base/pool.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/column_order.h"
#include "gossamer/detail/score.h"
#include "gossamer/prune/patterns.h"
#include "prune/masks.h"
#include "prune/patterns/kernels.h"

namespace gossamer::prune {
using namespace detail;
namespace {

constexpr std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// What a CPU computes over the columns stored at `x`, rows ld apart.
PermutationSums sums_over(const float* x, std::int64_t ld, std::int64_t cols, int n, int m,
                          Buffer<float>& next) {
  const auto refresh = [=, &next](std::span<const std::int32_t> order,
                                  std::span<const std::int64_t> changed, double* sum, double* total,
                                  double* pairs) {
    const auto count = static_cast<std::int64_t>(changed.size());
    const double work = static_cast<double>(count * m) * static_cast<double>(cols * ld) * 0.06;
    for_tasks(count, work, [&](std::int64_t i) {
      const std::int64_t g = changed[at(i)], p = g * m;
      pattern_kernels().permutation_group({.x = x,
                                           .ld = ld,
                                           .member = &order[at(p)],
                                           .n = n,
                                           .m = m,
                                           .next = &next[p * ld],
                                           .sum = sum + p,
                                           .total = total + g});
      pattern_kernels().permutation_pairs({.x = x,
                                           .ld = ld,
                                           .cols = cols,
                                           .next = &next[p * ld],
                                           .count = m,
                                           .out = pairs + p * cols,
                                           .stride = cols});
    });
  };
  const auto subsets = [=](std::span<const std::int32_t> columns, int count, double* out) {
    const InterruptPoll interrupt;
    const auto each = at(count);
    for (std::size_t i = 0; i < columns.size() / each; ++i) {
      interrupt.look();
      pattern_kernels().permutation_subsets(
          {.x = x,
           .ld = ld,
           .column = &columns[i * each],
           .count = count,
           .n = n,
           .out = out + i * static_cast<std::size_t>(subsets_of(count))});
    }
  };
  return {.refresh = refresh, .subsets = subsets};
}

/// x[slot*ld + row] = score(row, column of the slot)·2^-exponent, as float. Returns the largest
/// magnitude of the finite scores.
double load_columns(const Score& score, const std::vector<std::int32_t>& column, std::int64_t ld,
                    int exponent, float* x) {
  const std::int64_t rows = score.w.shape[0], cols = score.w.shape[1];
  const ScoreTiles tiles(score);
  constexpr std::int64_t kRows = 16;
  std::vector<double> largest(at(ld / kRows));
  for_tasks(ld / kRows, 2.0 * static_cast<double>(rows * cols), [&](std::int64_t task) {
    const std::int64_t first = task * kRows;
    const std::int64_t count = std::max<std::int64_t>(std::min(kRows, rows - first), 0);
    const ScoreTile tile(tiles, first * cols, count * cols);
    const Scratch real(kRows * cols * 8);
    const bool f64 = tile.type() == DType::f64;
    widen(tile.data(), tile.type(), cols, count, cols, real.data());
    for (std::int64_t slot = 0; slot < cols; ++slot) {
      float* to = x + slot * ld + first;
      for (std::int64_t r = 0; r < kRows; ++r) {
        double value = 0.0;
        if (r < count) {
          const std::int64_t i = r * cols + column[at(slot)];
          value = f64 ? real.as<double>()[i] : static_cast<double>(real.as<float>()[i]);
        }
        if (tile.magnitude()) value = std::abs(value);
        if (value != value) value = 0.0;
        const double size = std::abs(value);
        if (size <= std::numeric_limits<double>::max()) {
          largest[at(task)] = std::max(largest[at(task)], size);
        }
        if (exponent != 0) value = std::ldexp(value, -exponent);
        to[r] = static_cast<float>(std::clamp<double>(value, -kLargestScore, kLargestScore));
      }
    }
  });
  return largest.empty() ? 0.0 : *std::max_element(largest.begin(), largest.end());
}

/// The number that a loaded one stands for: infinities are loaded as ±kLargest.
double real_of(float value) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return value >= kLargestScore ? kInfinity : value <= -kLargestScore ? -kInfinity : double{value};
}

/// Of each group: Σ over rows of the n largest, in double.
std::vector<double> kept_sums(const float* x, std::int64_t ld, std::int64_t rows, std::int64_t n,
                              std::int64_t m, const std::vector<std::int32_t>& slot) {
  const auto groups = static_cast<std::int64_t>(slot.size()) / m;
  std::vector<double> sums(at(groups));
  for_tasks(groups, 2.0 * static_cast<double>(groups * m * rows), [&](std::int64_t g) {
    std::vector<float> value(at(m));
    double sum = 0.0;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < m; ++i) value[at(i)] = x[slot[at(g * m + i)] * ld + r];
      std::sort(value.begin(), value.end(), std::greater<>());
      for (std::int64_t i = 0; i < n; ++i) sum += real_of(value[at(i)]);
    }
    sums[at(g)] = sum;
  });
  return sums;
}

}  // namespace

double permutation_search(const Score& score, std::int64_t n, std::int64_t m,
                          const PermutationOptions& options, const TensorView& perm) {
  const FloatEnvironment floats;
  check_permutation(Checker("permutation_search"), score, n, m, options, perm);
  const std::int64_t rows = score.w.shape[0], cols = score.w.shape[1];
  if (cols == 0) return 0.0;

  const std::vector<std::int32_t> column = dealt_columns(cols, m);
  const std::int64_t ld = (rows + kPermutationRows - 1) / kPermutationRows * kPermutationRows;
  const Buffer<float> x(cols * ld);
  const double largest = load_columns(score, column, ld, 0, x.data());
  const int exponent = permutation_exponent(largest);
  if (exponent != 0) load_columns(score, column, ld, exponent, x.data());
  std::vector<std::int32_t> slot(at(cols));
  std::iota(slot.begin(), slot.end(), 0);
  if (0 < n && n < m && rows > 0) {
    const std::vector<std::int64_t> first = permutation_parts(cols, m);
    parallel_for(static_cast<std::int64_t>(first.size()) - 1, [&](std::int64_t i) {
      const std::int64_t begin = first[at(i)], count = first[at(i + 1)] - begin;
      if (count == 0) return;
      const PermutationPart part{.rows = ld,
                                 .cols = count,
                                 .n = static_cast<int>(n),
                                 .m = static_cast<int>(m),
                                 .seed = options.seed,
                                 .number = static_cast<std::uint64_t>(i)};
      Buffer<float> next(count * ld);
      const PermutationSums sums =
          sums_over(x.data() + begin * ld, ld, count, part.n, part.m, next);
      const std::vector<std::int32_t> order = search_order(part, sums, options);
      for (std::int64_t c = 0; c < count; ++c) {
        slot[at(begin + c)] = static_cast<std::int32_t>(begin) + order[at(c)];
      }
    });
  }
  auto* out = static_cast<std::int32_t*>(perm.data);
  for (std::int64_t i = 0; i < cols; ++i) out[i] = column[at(slot[at(i)])];
  return permutation_total(kept_sums(x.data(), ld, rows, n, m, slot), exponent);
}

}  // namespace gossamer::prune
