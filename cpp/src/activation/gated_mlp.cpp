#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "activation/channels.h"
#include "base/cut.h"
#include "base/floats.h"
#include "base/kernels.h"
#include "base/numbers.h"
#include "base/token_rows.h"
#include "gossamer/activation.h"
#include "gossamer/detail/activation_checks.h"

namespace gossamer {
using namespace detail;
namespace {

/// Rows of the weights in a task: a few tasks a thread, long enough for memory to stream.
EqualRanges cut_channels(std::int64_t rows, double nanoseconds) {
  constexpr std::int64_t kLeast = 16, kTasksPerThread = 4;
  constexpr double kLong = 5e7;  // a task is not interrupted
  const std::int64_t most = std::max<std::int64_t>(rows / kLeast, 1);
  const auto pieces = static_cast<std::int64_t>(std::min(nanoseconds / kLong, 1e6));
  return {.size = rows, .count = std::min(most, std::max(kTasksPerThread * num_threads(), pieces))};
}

/// The channels of a task's rows that pass, and act(gate)·up of them for each token.
struct Passing {
  const TensorView *w_gate, *w_up;
  const void* x;  // [tokens, depth] of the type that sums are kept in
  std::int64_t tokens, depth;
  const Limits* limits;
  const GatedMlpOptions* options;
  bool f64;

  /// For rows [row0, row1): the channels to `channels`, counted from row 0, and their values to
  /// values[t*ld + i]. Returns how many.
  std::int64_t operator()(std::int64_t row0, std::int64_t row1, std::int32_t* channels,
                          std::byte* values, std::int64_t ld) const {
    const std::int64_t n = row1 - row0, real = f64 ? 8 : 4;
    const Scratch gates(tokens * n * real);
    activation_kernels().dot_rows(dots(*w_gate, row0, nullptr, n, gates.data(), n));
    base_kernels().store_tile({.tile = gates.data(),
                               .ld = n,
                               .rows = tokens,
                               .cols = n,
                               .out = gates.data(),
                               .out_type = f64 ? DType::f64 : DType::f32,
                               .stride = n,
                               .transposed = false,
                               .bias = nullptr,
                               .bias_by_row = false,
                               .activation = options->activation,
                               .lo = options->lo,
                               .hi = options->hi,
                               .accumulate = false,
                               .f64 = f64});
    std::int64_t found = 0;
    const DType type = f64 ? DType::f64 : DType::f32;
    activation_kernels().select_channels({.x = gates.data(),
                                          .type = type,
                                          .stride = n,
                                          .tokens = tokens,
                                          .count = n,
                                          .last = nullptr,
                                          .threshold = limits->value(),
                                          .thresholds = limits->channels(row0),
                                          .channels = channels,
                                          .found = &found});
    if (found == 0) return 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      activation_kernels().gather_channels({.x = gates.data() + t * n * real,
                                            .type = type,
                                            .stride = n,
                                            .tokens = 1,
                                            .count = n,
                                            .last = nullptr,
                                            .channels = channels,
                                            .found = found,
                                            .values = values + t * ld * real});
    }
    DotRowsArgs up = dots(*w_up, row0, channels, found, values, ld);
    up.multiply = true;
    activation_kernels().dot_rows(up);
    for (std::int64_t i = 0; i < found; ++i) channels[i] += static_cast<std::int32_t>(row0);
    return found;
  }

  [[nodiscard]] DotRowsArgs dots(const TensorView& w, std::int64_t row0, const std::int32_t* rows,
                                 std::int64_t count, void* to, std::int64_t ld) const {
    return {.table = static_cast<const std::byte*>(w.data) + row0 * w.strides[0] * size_of(w.dtype),
            .type = w.dtype,
            .stride = w.strides[0],
            .depth = depth,
            .rows = rows,
            .count = count,
            .x = x,
            .x_stride = depth,
            .tokens = tokens,
            .dots = to,
            .ld = ld,
            .multiply = false};
  }
};

}  // namespace

void gated_mlp(const TensorView& x, const TensorView& w_gate, const TensorView& w_up,
               const TensorView& w_down_t, const Threshold& threshold, const TensorView& out,
               const GatedMlpOptions& options) {
  const FloatEnvironment floats;
  const Tokens all =
      check_gated_mlp(Checker("gated_mlp"), x, w_gate, w_up, w_down_t, threshold, out, options);
  if (out.numel() == 0) return;
  const bool f64 = x.dtype == DType::f64;
  const RowsIn rows_of_x(all.from);
  const RowsOut result(all.to, false);
  const TensorView& from = rows_of_x.view();
  const std::int64_t tokens = from.shape[0], depth = from.shape[1];
  const std::int64_t hidden = w_gate.shape[0], real = real_size(x.dtype);
  const Limits limits(threshold, f64);
  const Scratch wide(tokens * depth * real);
  widen(from.data, x.dtype, from.strides[0], tokens, depth, wide.data());
  // Each task leaves its channels where its rows begin; then they are moved side by side.
  const Scratch channels(hidden * 4);
  const std::int64_t values =
      make_view(static_cast<void*>(nullptr), x.dtype, {tokens, hidden}).numel();
  const Scratch products(values * real);
  const double work = 0.06 * static_cast<double>(hidden) * static_cast<double>(depth);
  const EqualRanges ranges = cut_channels(hidden, work * static_cast<double>(tokens));
  const Scratch counts(ranges.count * 8);
  const Passing passing{.w_gate = &w_gate,
                        .w_up = &w_up,
                        .x = wide.data(),
                        .tokens = tokens,
                        .depth = depth,
                        .limits = &limits,
                        .options = &options,
                        .f64 = f64};
  for_tasks(ranges.count, work, [&](std::int64_t task) {
    const std::int64_t row = ranges.begin(task);
    counts.as<std::int64_t>()[task] =
        passing(row, ranges.end(task), channels.as<std::int32_t>() + row,
                products.data() + row * real, hidden);
  });
  std::int64_t found = 0;
  auto* listed = channels.as<std::int32_t>();
  for (std::int64_t task = 0; task < ranges.count; ++task) {
    const std::int64_t n = counts.as<std::int64_t>()[task];
    if (n == 0) continue;
    std::memmove(listed + found, listed + ranges.begin(task), static_cast<std::size_t>(n * 4));
    found += n;
  }
  // Token by token: what is written lies before what is still to be read.
  std::byte* to = products.data();
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t task = 0; task < ranges.count; ++task) {
      const std::int64_t bytes = counts.as<std::int64_t>()[task] * real;
      if (bytes == 0) continue;
      std::memmove(to, products.data() + (t * hidden + ranges.begin(task)) * real,
                   static_cast<std::size_t>(bytes));
      to += bytes;
    }
  }
  for_tokens(result.view(), [&](std::int64_t first, const TensorView& rows) {
    sum_weighted_rows({.table = w_down_t,
                       .rows = listed,
                       .count = found,
                       .weights = products.data() + first * found * real},
                      rows, {});
  });
  result.write();
}

}  // namespace gossamer
