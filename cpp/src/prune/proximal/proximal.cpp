#include "gossamer/prune/proximal.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/floats.h"
#include "base/interrupt.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/update_checks.h"
#include "prune/norms.h"
#include "prune/proximal/kernels.h"
#include "prune/select/operands.h"

namespace gossamer::prune {
using namespace detail;
namespace {

const std::byte* bytes(const TensorView& view) { return static_cast<const std::byte*>(view.data); }

/// Runs an update over all elements: `other` and `mask` may be null.
void run(Update what, const TensorView& x, const TensorView* other, const TensorView* mask,
         double a) {
  // One long row where nothing lies between rows.
  const auto flat = [](const TensorView* view) {
    return view == nullptr || view->strides[0] == view->shape[1];
  };
  const bool one = flat(&x) && flat(other) && flat(mask);
  const std::int64_t cols = one ? x.shape[0] * x.shape[1] : x.shape[1];
  const std::int64_t count = one ? 1 : x.shape[0];
  if (cols == 0 || count == 0) return;
  constexpr std::int64_t kPiece = 1 << 14;
  const std::int64_t pieces = (cols + kPiece - 1) / kPiece;
  const double work = 0.2 * static_cast<double>(count) * static_cast<double>(cols);
  // Short rows are taken several at a time.
  const std::int64_t together = std::max<std::int64_t>(1, kPiece / cols);
  const Uninterrupted whole;
  for_tasks((count + together - 1) / together * pieces, work, [&](std::int64_t task) {
    const std::int64_t row = task / pieces * together, col = task % pieces * kPiece;
    const std::int64_t offset = row * x.strides[0] + col;
    const std::int64_t size = size_of(x.dtype);
    proximal_kernels().update(
        {.what = what,
         .x = static_cast<std::byte*>(x.data) + offset * size,
         .type = x.dtype,
         .stride = x.strides[0],
         .other =
             other == nullptr ? nullptr : bytes(*other) + (row * other->strides[0] + col) * size,
         .other_stride = other == nullptr ? 0 : other->strides[0],
         .mask = mask == nullptr
                     ? nullptr
                     : static_cast<const std::uint8_t*>(mask->data) + row * mask->strides[0] + col,
         .mask_stride = mask == nullptr ? 0 : mask->strides[0],
         .rows = std::min(together, count - row),
         .cols = std::min(kPiece, cols - col),
         .a = a});
  });
}

/// Multiplies each group by its factor.
void scale(const Grouped& w, const double* factors) {
  const TensorView& rows = w.rows;
  const std::int64_t count = rows.shape[0], cols = rows.shape[1];
  const bool f64 = rows.dtype == DType::f64;
  const Scratch narrow(f64 ? 0 : w.count * 4);
  if (!f64) {
    for (std::int64_t g = 0; g < w.count; ++g) {
      narrow.as<float>()[g] = static_cast<float>(factors[g]);
    }
  }
  const std::byte* real = f64 ? reinterpret_cast<const std::byte*>(factors) : narrow.data();
  const std::int64_t groups = w.length == 0 ? 0 : cols / w.length;
  const std::int64_t together = std::max<std::int64_t>(1, kGroupWork / cols);
  const double work = 0.2 * static_cast<double>(count) * static_cast<double>(cols);
  const Uninterrupted whole;
  for_tasks((count + together - 1) / together, work, [&](std::int64_t task) {
    const std::int64_t row = task * together;
    proximal_kernels().group_scale(
        {.x = static_cast<std::byte*>(rows.data) + row * rows.strides[0] * size_of(rows.dtype),
         .type = rows.dtype,
         .stride = rows.strides[0],
         .rows = std::min(together, count - row),
         .cols = cols,
         .group = w.length,
         .factors = real + row * groups * (f64 ? 8 : 4)});
  });
}

/// The 1/η for which Σ clip(norm/η - λ, 0, 1) = k: the sum rises with 1/η, straight between the
/// points where a group enters and where it is full.
double sef_slope(const double* norms, std::int64_t count, double lambda, double k) {
  std::vector<std::pair<double, double>> events;  // (1/η, change of the slope)
  for (std::int64_t g = 0; g < count; ++g) {
    if (!(norms[g] > 0)) continue;
    events.emplace_back(lambda / norms[g], norms[g]);
    events.emplace_back((lambda + 1) / norms[g], -norms[g]);
  }
  std::sort(events.begin(), events.end());
  double at = 0, sum = 0, slope = 0;
  for (const auto& [point, change] : events) {
    const double next = sum + slope * (point - at);
    if (next >= k && slope > 0) return at + (k - sum) / slope;
    sum = next;
    at = point;
    slope += change;
  }
  return at;
}

}  // namespace

void soft_threshold_(const TensorView& w, double threshold) {
  const FloatEnvironment floats;
  const UpdateOperands of = check_soft_threshold(Checker("soft_threshold_"), w, threshold);
  run(Update::soft, of.x, nullptr, nullptr, threshold);
}

void group_soft_threshold_(const TensorView& w, double threshold, const Groups& groups) {
  const FloatEnvironment floats;
  const Checker check("group_soft_threshold_");
  const Grouped groups_of = check_group_soft_threshold(check, w, threshold, groups);
  if (w.numel() == 0) return;
  const Scratch sums(groups_of.count * 8);
  auto* factors = sums.as<double>();
  group_norms(groups_of, factors);
  for (std::int64_t g = 0; g < groups_of.count; ++g) {
    // Not 0/0 for a group of zeros.
    factors[g] = factors[g] > threshold ? 1 - threshold / factors[g]
                                        : (std::isnan(factors[g]) ? factors[g] : 0.0);
  }
  scale(groups_of, factors);
}

void sef_prox_(const TensorView& w, double lambda, double k, const Groups& groups) {
  const FloatEnvironment floats;
  const Checker check("sef_prox_");
  const Grouped groups_of = check_sef_prox(check, w, lambda, k, groups);
  if (w.numel() == 0) return;
  const Scratch sums(groups_of.count * 8);
  auto* factors = sums.as<double>();
  group_norms(groups_of, factors);
  for (std::int64_t g = 0; g < groups_of.count; ++g) {
    if (!std::isfinite(factors[g])) check.value_error("w holds NaN or infinity, expected neither");
  }
  // u does not depend on the unit of the norms; their quotients and sums could leave the range.
  const double largest = *std::max_element(factors, factors + groups_of.count);
  if (largest > 0 && !(largest >= 0x1p-300 && largest <= 0x1p300)) {
    const int exponent = std::ilogb(largest);
    for (std::int64_t g = 0; g < groups_of.count; ++g) {
      factors[g] = std::ldexp(factors[g], -exponent);
    }
  }
  const double slope = sef_slope(factors, groups_of.count, lambda, k);
  for (std::int64_t g = 0; g < groups_of.count; ++g) {
    const double u = std::clamp(factors[g] * slope - lambda, 0.0, 1.0);
    factors[g] = u > 0 && k > 0 ? u / (lambda + u) : 0.0;
  }
  scale(groups_of, factors);
}

void l0_project_(const TensorView& w, std::int64_t k, const TensorView& mask) {
  const FloatEnvironment floats;
  const Checker check("l0_project_");
  const UpdateOperands of = check_l0_project(check, w, mask);
  const std::array<Score, 1> score{Score{.w = w, .kind = ScoreKind::magnitude}};
  topk_masks(check, score, k, {}, {}, std::span<const TensorView>(&mask, 1));
  run(Update::shrink, of.x, nullptr, &of.mask, 0);
}

void shrink_(const TensorView& w, const TensorView& mask, double factor) {
  const FloatEnvironment floats;
  const UpdateOperands of = check_shrink(Checker("shrink_"), w, mask, factor);
  run(Update::shrink, of.x, nullptr, &of.mask, factor);
}

void srste_grad_(const TensorView& g, const TensorView& w, const TensorView& mask, double decay) {
  const FloatEnvironment floats;
  const UpdateOperands of = check_srste_grad(Checker("srste_grad_"), g, w, mask, decay);
  run(Update::decay, of.x, &of.other, &of.mask, decay);
}

namespace {

template <class T>
double polarize(T* gamma, std::int64_t n, double t, double alpha) {
  const auto sign = [](double x) { return x > 0 ? 1.0 : (x < 0 ? -1.0 : 0.0); };
  double mean = 0, value = 0, signs = 0;
  for (std::int64_t i = 0; i < n; ++i) mean += static_cast<double>(gamma[i]);
  mean /= static_cast<double>(n);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto x = static_cast<double>(gamma[i]), from = x - alpha * mean;
    value += t * std::abs(x) - std::abs(from);
    signs += sign(from);
  }
  const double shared = alpha * signs / static_cast<double>(n);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto x = static_cast<double>(gamma[i]);
    gamma[i] = static_cast<T>(t * sign(x) - sign(x - alpha * mean) + shared);
  }
  return value;
}

}  // namespace

double polarization(const TensorView& gamma, double t, double alpha, const TensorView& grad) {
  const FloatEnvironment floats;
  const Checker check("polarization");
  check_polarization(check, gamma, t, alpha, grad);
  const std::int64_t n = gamma.shape[0];
  if (n == 0) return 0;
  const bool f64 = gamma.dtype == DType::f64;
  const Scratch real(n * 8);
  widen(gamma.data, gamma.dtype, n, real.data());
  const double value =
      f64 ? polarize(real.as<double>(), n, t, alpha) : polarize(real.as<float>(), n, t, alpha);
  narrow(real.data(), n, grad.data, grad.dtype);
  return value;
}

}  // namespace gossamer::prune
