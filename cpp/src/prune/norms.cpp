#include "prune/norms.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/buffer.h"
#include "base/work.h"
#include "gossamer/prune/layerwise.h"
#include "prune/proximal/kernels.h"

namespace gossamer::detail {
namespace {

constexpr double kMax = std::numeric_limits<double>::max();

/// Calls f(group, first element, elements, their stride) for the groups of which `chosen`.
template <class F>
void for_chosen(const Grouped& w, const std::vector<bool>& chosen, F&& f) {
  const TensorView& rows = w.rows;
  const auto* data = static_cast<const double*>(rows.data);
  const std::int64_t across = w.length == 0 ? w.count : rows.shape[1] / w.length;
  for (std::int64_t g = 0; g < w.count; ++g) {
    if (!chosen[static_cast<std::size_t>(g)]) continue;
    if (w.length == 0) {
      f(g, data + g, rows.shape[0], rows.strides[0]);
    } else {
      f(g, data + g / across * rows.strides[0] + g % across * w.length, w.length, std::int64_t{1});
    }
  }
}

/// The norm of n numbers, scaled by their largest; `norm` where one is no finite number, which it
/// tells, or all are 0.
double scaled_norm(const double* x, std::int64_t n, std::int64_t stride, double norm) {
  double largest = 0, sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double size = std::abs(x[i * stride]);
    if (!(size <= kMax)) return norm;
    largest = std::max(largest, size);
  }
  if (largest == 0) return 0;
  const int exponent = std::ilogb(largest);
  for (std::int64_t i = 0; i < n; ++i) {
    const double scaled = std::ldexp(x[i * stride], -exponent);
    sum += scaled * scaled;
  }
  return std::ldexp(std::sqrt(sum), exponent);
}

}  // namespace

void group_squares(const Grouped& w, double* out) {
  const TensorView& rows = w.rows;
  const std::int64_t count = rows.shape[0], cols = rows.shape[1];
  if (w.length == 0) {
    const Buffer<double> rest(2 * cols);
    std::fill_n(out, cols, 0.0);
    std::fill_n(rest.data(), 2 * cols, 0.0);
    prune::ColumnStats stats{.n = 0,
                             .sum = make_view(rest.data(), DType::f64, {cols}),
                             .sumsq = make_view(out, DType::f64, {cols}),
                             .m2 = make_view(rest.data() + cols, DType::f64, {cols})};
    prune::column_stats_(stats, rows);
    return;
  }
  const std::int64_t groups = cols / w.length;
  const std::int64_t together =
      std::max<std::int64_t>(1, kGroupWork / std::max<std::int64_t>(cols, 1));
  const double work = 0.2 * static_cast<double>(count) * static_cast<double>(cols);
  for_tasks(ceil_div(count, together), work, [&](std::int64_t task) {
    const std::int64_t row = task * together;
    proximal_kernels().group_sum({.x = static_cast<const std::byte*>(rows.data) +
                                       row * rows.strides[0] * size_of(rows.dtype),
                                  .type = rows.dtype,
                                  .stride = rows.strides[0],
                                  .rows = std::min(together, count - row),
                                  .cols = cols,
                                  .group = w.length,
                                  .squares = true,
                                  .out = out + row * groups});
  });
}

void group_norms(const Grouped& w, double* out) {
  group_squares(w, out);
  const std::int64_t size = w.length == 0 ? w.rows.shape[0] : w.length;
  // Squares below the least normal number lose bits, which may add up over a group. Only those of
  // float64 get there.
  const double least = static_cast<double>(size) * std::numeric_limits<double>::min();
  std::vector<bool> suspect;
  for (std::int64_t g = 0; g < w.count; ++g) {
    if (w.rows.dtype == DType::f64 && !(out[g] >= least && out[g] <= kMax)) {
      suspect.resize(static_cast<std::size_t>(w.count));
      suspect[static_cast<std::size_t>(g)] = true;
    }
    out[g] = std::sqrt(out[g]);
  }
  if (suspect.empty()) return;
  for_chosen(w, suspect, [&](std::int64_t g, const double* x, std::int64_t n, std::int64_t stride) {
    out[g] = scaled_norm(x, n, stride, out[g]);
  });
}

}  // namespace gossamer::detail
