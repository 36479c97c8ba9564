#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "activation/channels.h"
#include "base/floats.h"
#include "base/token_rows.h"
#include "gossamer/activation.h"
#include "gossamer/detail/activation_checks.h"

namespace gossamer {
using namespace detail;
namespace {

template <class T>
bool all_finite(const void* values, std::int64_t n) {
  const T* v = static_cast<const T*>(values);
  return std::all_of(v, v + n, [](T x) { return std::isfinite(x); });
}

/// One call of delta_linear after its checks.
class Delta {
 public:
  Delta(const Tokens& tokens, const TensorView& wt, const DeltaState& state, const Limits& limits)
      : x_(tokens.from),
        out_(tokens.to),
        wt_(wt),
        limits_(limits),
        f64_(x_.dtype == DType::f64),
        last_(static_cast<std::byte*>(state.last.data)),
        sums_(static_cast<std::byte*>(state.sums.data)),
        channels_(x_.shape[1] * 4) {}

  /// Sends the changes that pass; returns of how many channels.
  std::int64_t send(bool refresh, const Epilogue& epilogue) {
    const std::int64_t sent = select(x_, last_, limits_.value(), limits_.channels());
    const Scratch changes(x_.shape[0] * sent * real());
    gather(x_, last_, sent, changes.data());
    const std::int64_t n = x_.shape[0] * sent;
    const bool finite =
        f64_ ? all_finite<double>(changes.data(), n) : all_finite<float>(changes.data(), n);
    // What is not finite would stay in the sums for good.
    if (refresh || !finite) {
      sum_anew(epilogue);
    } else {
      sum(changes.data(), sent, epilogue, true);
    }
    return sent;
  }

  void reset() noexcept {
    std::fill_n(static_cast<std::byte*>(last_), x_.numel() * real(), std::byte{0});
    std::fill_n(static_cast<std::byte*>(sums_), out_.numel() * real(), std::byte{0});
  }

 private:
  [[nodiscard]] std::int64_t real() const noexcept { return f64_ ? 8 : 4; }

  /// What was sent last, as an operand.
  [[nodiscard]] TensorView sent_view() const {
    return make_view(static_cast<void*>(last_), f64_ ? DType::f64 : DType::f32,
                     {x_.shape[0], x_.shape[1]});
  }

  std::int64_t select(const TensorView& x, const std::byte* last, double threshold,
                      const void* thresholds) {
    std::int64_t found = 0;
    activation_kernels().select_channels({.x = x.data,
                                          .type = x.dtype,
                                          .stride = x.strides[0],
                                          .tokens = x.shape[0],
                                          .count = x.shape[1],
                                          .last = last,
                                          .threshold = threshold,
                                          .thresholds = thresholds,
                                          .channels = channels_.as<std::int32_t>(),
                                          .found = &found});
    return found;
  }

  void gather(const TensorView& x, std::byte* last, std::int64_t found, std::byte* values) {
    activation_kernels().gather_channels({.x = x.data,
                                          .type = x.dtype,
                                          .stride = x.strides[0],
                                          .tokens = x.shape[0],
                                          .count = x.shape[1],
                                          .last = last,
                                          .channels = channels_.as<std::int32_t>(),
                                          .found = found,
                                          .values = values});
  }

  void sum(const std::byte* values, std::int64_t count, const Epilogue& epilogue, bool add) {
    for_tokens(out_, [&](std::int64_t first, const TensorView& rows) {
      sum_weighted_rows({.table = wt_,
                         .rows = channels_.as<std::int32_t>(),
                         .count = count,
                         .weights = values + first * count * real()},
                        rows, epilogue, sums_ + first * out_.shape[1] * real(), add);
    });
  }

  /// From all that was sent and is not zero.
  void sum_anew(const Epilogue& epilogue) {
    const TensorView sent = sent_view();
    const double least =
        f64_ ? std::numeric_limits<double>::denorm_min() : std::numeric_limits<float>::denorm_min();
    const std::int64_t found = select(sent, nullptr, least, nullptr);
    const Scratch values(sent.shape[0] * found * real());
    gather(sent, nullptr, found, values.data());
    sum(values.data(), found, epilogue, false);
  }

  TensorView x_, out_, wt_;
  const Limits& limits_;
  bool f64_;
  std::byte *last_, *sums_;
  Scratch channels_;
};

}  // namespace

std::int64_t delta_linear(const TensorView& x, const TensorView& wt, const DeltaState& state,
                          const Threshold& threshold, const TensorView& out, bool refresh,
                          const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Tokens tokens =
      check_delta_linear(Checker("delta_linear"), x, wt, state, threshold, out, epilogue);
  const Limits limits(threshold, x.dtype == DType::f64);
  const RowsIn rows_of_x(tokens.from);
  const RowsOut result(tokens.to, epilogue.accumulate);
  Delta delta({.from = rows_of_x.view(), .to = result.view()}, wt, state, limits);
  try {
    const std::int64_t sent = delta.send(refresh, epilogue);
    result.write();
    return sent;
  } catch (...) {
    // Interrupted between the changes and their sums, which would not fit each other any more.
    delta.reset();
    throw;
  }
}

}  // namespace gossamer
