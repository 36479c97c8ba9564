#include "prune/norms.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/buffer.h"
#include "base/numbers.h"
#include "base/work.h"
#include "gossamer/prune/layerwise.h"
#include "prune/proximal/kernels.h"

namespace gossamer::detail {
namespace {

constexpr double kMax = std::numeric_limits<double>::max();

/// The norms of groups whose sums of squares left the range of the type that they were summed in:
/// `suspect` says which. Those of zeros alone are right, and pruned matrices have many.
class Repair {
 public:
  Repair(const Grouped& w, const std::vector<bool>& suspect) : w_(w), suspect_(suspect) {}

  void run(double* norms) const {
    if (w_.length == 0) {
      if (size_of(w_.rows.dtype) == 8   ? holds_numbers<std::uint64_t>()
          : size_of(w_.rows.dtype) == 4 ? holds_numbers<std::uint32_t>()
                                        : holds_numbers<std::uint16_t>()) {
        columns(norms);
      }
      return;
    }
    for (std::int64_t g = 0; g < w_.count; ++g) {
      if (suspect_[at(g)]) norms[g] = of_run(g, norms[g]);
    }
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

  /// Whether a suspect column has an element other than ±0. U has as many bits as an element.
  template <class U>
  [[nodiscard]] bool holds_numbers() const {
    const std::int64_t rows = w_.rows.shape[0], cols = w_.rows.shape[1];
    std::vector<U> mask(at(cols));
    for (std::int64_t c = 0; c < cols; ++c)
      mask[at(c)] = suspect_[at(c)] ? static_cast<U>(~U{0}) : U{0};
    const std::int64_t together = std::max<std::int64_t>(1, kTaskElements / cols);
    const std::int64_t tasks = ceil_div(rows, together);
    std::vector<U> found(at(tasks));
    for_tasks(
        tasks, 0.1 * static_cast<double>(rows) * static_cast<double>(cols), [&](std::int64_t task) {
          U any = 0;
          for (std::int64_t r = task * together; r < std::min(rows, (task + 1) * together); ++r) {
            const U* x = static_cast<const U*>(w_.rows.data) + r * w_.rows.strides[0];
            for (std::int64_t c = 0; c < cols; ++c) {
              any = static_cast<U>(any | (static_cast<U>(x[c] << 1) & mask[at(c)]));
            }
          }
          found[at(task)] = any;
        });
    return std::any_of(found.begin(), found.end(), [](U any) { return any != 0; });
  }

  /// Row r in double.
  void read(std::int64_t r, std::vector<float>& narrow, std::vector<double>& row) const {
    const std::byte* from = static_cast<const std::byte*>(w_.rows.data) +
                            r * w_.rows.strides[0] * size_of(w_.rows.dtype);
    const std::int64_t cols = w_.rows.shape[1];
    if (w_.rows.dtype == DType::f64) {
      widen(from, w_.rows.dtype, cols, row.data());
      return;
    }
    widen(from, w_.rows.dtype, cols, narrow.data());
    std::copy(narrow.begin(), narrow.end(), row.begin());
  }

  /// Columns with infinities or NaN keep what their squares gave.
  void columns(double* norms) const {
    const std::int64_t rows = w_.rows.shape[0], cols = w_.rows.shape[1];
    std::vector<double> row(at(cols)), largest(at(cols)), sum(at(cols));
    std::vector<float> narrow(at(cols));
    for (std::int64_t r = 0; r < rows; ++r) {
      read(r, narrow, row);
      for (std::size_t c = 0; c < row.size(); ++c) {
        const double size = std::abs(row[c]);
        largest[c] = size > largest[c] || size != size ? size : largest[c];
      }
    }
    const auto exponent = [&](std::size_t c) {
      return largest[c] > 0 && largest[c] <= kMax ? std::ilogb(largest[c]) : 0;
    };
    for (std::int64_t r = 0; r < rows; ++r) {
      read(r, narrow, row);
      for (std::size_t c = 0; c < row.size(); ++c) {
        if (!suspect_[c]) continue;
        const double scaled = std::ldexp(row[c], -exponent(c));
        sum[c] += scaled * scaled;
      }
    }
    for (std::size_t c = 0; c < row.size(); ++c) {
      if (suspect_[c] && largest[c] <= kMax) norms[c] = std::ldexp(std::sqrt(sum[c]), exponent(c));
    }
  }

  /// The norm of a run of float64, scaled by its largest; `norm` where that is no finite number.
  [[nodiscard]] double of_run(std::int64_t g, double norm) const {
    const std::int64_t across = w_.rows.shape[1] / w_.length;
    const double* x = static_cast<const double*>(w_.rows.data) + g / across * w_.rows.strides[0] +
                      g % across * w_.length;
    double largest = 0, sum = 0;
    for (std::int64_t i = 0; i < w_.length; ++i) {
      const double size = std::abs(x[i]);
      if (!(size <= kMax)) return norm;
      largest = std::max(largest, size);
    }
    if (largest == 0) return 0;
    const int exponent = std::ilogb(largest);
    for (std::int64_t i = 0; i < w_.length; ++i) {
      const double scaled = std::ldexp(x[i], -exponent);
      sum += scaled * scaled;
    }
    return std::ldexp(std::sqrt(sum), exponent);
  }

  const Grouped& w_;
  const std::vector<bool>& suspect_;
};

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
  const bool columns = w.length == 0, f64 = w.rows.dtype == DType::f64;
  const std::int64_t size = columns ? w.rows.shape[0] : w.length;
  // Squares below the least normal number lose bits, which may add up over a group. Columns of
  // other types than float64 are summed in float32 at first; squares of such runs fit in double.
  const double least = static_cast<double>(size) *
                       (f64       ? std::numeric_limits<double>::min()
                        : columns ? static_cast<double>(std::numeric_limits<float>::min())
                                  : 0.0);
  std::vector<bool> suspect;
  for (std::int64_t g = 0; g < w.count; ++g) {
    if ((f64 || columns) && !(out[g] >= least && out[g] <= kMax)) {
      suspect.resize(static_cast<std::size_t>(w.count));
      suspect[static_cast<std::size_t>(g)] = true;
    }
    out[g] = std::sqrt(out[g]);
  }
  if (!suspect.empty()) Repair(w, suspect).run(out);
}

}  // namespace gossamer::detail
