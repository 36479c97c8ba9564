#include "activation/channels.h"

#include <algorithm>
#include <cstddef>

#include "base/cut.h"
#include "base/kernels.h"
#include "base/numbers.h"

namespace gossamer::detail {
namespace {

/// What sums of a piece of columns may take of the level-1 cache.
constexpr std::int64_t kSumsBytes = 16 << 10;
/// Least columns of a piece, which starts at a multiple of kMultiple.
constexpr std::int64_t kLeastColumns = 128, kMultiple = 64;

/// Columns of a piece: all for one thread, as long runs read fastest; else two pieces a thread, so
/// that uneven threads even out; more where the sums would not stay in the cache.
std::int64_t piece_width(std::int64_t tokens, std::int64_t cols, std::int64_t real) {
  const std::int64_t widest = std::max(kLeastColumns, kSumsBytes / (tokens * real));
  const std::int64_t threads = num_threads();
  const std::int64_t wanted =
      threads == 1 ? 1 : std::min(2 * threads, std::max<std::int64_t>(cols / kLeastColumns, 1));
  const std::int64_t pieces = std::max(ceil_div(cols, widest), wanted);
  return ceil_div(ceil_div(cols, pieces), kMultiple) * kMultiple;
}

}  // namespace

Limits::Limits(const Threshold& threshold, bool f64)
    : each_(threshold.channels.has_value()),
      f64_(f64),
      value_(threshold.value),
      channels_(each_ ? threshold.channels->numel() * (f64 ? 8 : 4) : 0) {
  if (!each_) return;
  const TensorView& given = *threshold.channels;
  if (f64 && given.dtype == DType::f32) {
    const auto* from = static_cast<const float*>(given.data);
    std::copy(from, from + given.shape[0], channels_.as<double>());
  } else {
    widen(given.data, given.dtype, given.shape[0], channels_.data());
  }
}

const void* Limits::channels(std::int64_t first) const noexcept {
  return each_ ? channels_.data() + first * (f64_ ? 8 : 4) : nullptr;
}

void sum_columns(const WeightedRows& weighted, const TensorView& out, const Epilogue& epilogue,
                 std::int64_t col, std::int64_t n, std::byte* kept, bool add) {
  const TensorView& table = weighted.table;
  const std::int64_t item = size_of(table.dtype), real = real_size(table.dtype);
  const std::int64_t tokens = out.shape[0], ld = kept == nullptr ? n : out.shape[1];
  const Scratch own(kept == nullptr ? tokens * n * real : 0);
  std::byte* sums = kept == nullptr ? own.data() : kept + col * real;
  activation_kernels().sum_rows({.table = static_cast<const std::byte*>(table.data) + col * item,
                                 .type = table.dtype,
                                 .stride = table.strides[0],
                                 .cols = n,
                                 .rows = weighted.rows,
                                 .count = weighted.count,
                                 .weights = weighted.weights,
                                 .weights_stride = weighted.count,
                                 .tokens = tokens,
                                 .sums = sums,
                                 .ld = ld,
                                 .accumulate = add});
  base_kernels().store_tile(
      {.tile = sums,
       .ld = ld,
       .rows = tokens,
       .cols = n,
       .out = static_cast<std::byte*>(out.data) + col * size_of(out.dtype),
       .out_type = out.dtype,
       .stride = out.strides[0],
       .transposed = false,
       .bias = epilogue.bias.has_value()
                   ? static_cast<const std::byte*>(epilogue.bias->data) + col * item
                   : nullptr,
       .bias_by_row = false,
       .activation = epilogue.activation,
       .lo = epilogue.lo,
       .hi = epilogue.hi,
       .accumulate = epilogue.accumulate,
       .f64 = real == 8});
}

void sum_weighted_rows(const WeightedRows& weighted, const TensorView& out,
                       const Epilogue& epilogue, std::byte* kept, bool add) {
  const std::int64_t tokens = out.shape[0], cols = out.shape[1];
  if (tokens == 0 || cols == 0) return;
  const std::int64_t width = piece_width(tokens, cols, real_size(out.dtype));
  const double work = 0.04 * static_cast<double>(weighted.count + 8) * static_cast<double>(cols) *
                      static_cast<double>(tokens);
  for_tasks(ceil_div(cols, width), work, [&](std::int64_t task) {
    const std::int64_t col = task * width;
    sum_columns(weighted, out, epilogue, col, std::min(width, cols - col), kept, add);
  });
}

}  // namespace gossamer::detail
