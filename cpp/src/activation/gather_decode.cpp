#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "activation/channels.h"
#include "base/cut.h"
#include "base/floats.h"
#include "base/index.h"
#include "base/interrupt.h"
#include "base/numbers.h"
#include "base/token_rows.h"
#include "gossamer/activation.h"
#include "gossamer/detail/activation_checks.h"

namespace gossamer {
using namespace detail;
namespace {

/// A copy of indices [tokens, k], of which each has been compared with the number of `rows`, those
/// that `of` names: the caller's may change meanwhile.
class Rows {
 public:
  Rows(const Checker& check, const TensorView& indices, std::int64_t rows, const char* of)
      : copy_(indices.numel() * 4) {
    const InterruptPoll interrupt;
    with_index_type(indices.dtype, [&](auto index) {
      using I = decltype(index);
      for (std::int64_t t = 0; t < indices.shape[0]; ++t) {
        interrupt.look();
        const I* from = static_cast<const I*>(indices.data) + t * indices.strides[0];
        std::int32_t* to = at(t * indices.shape[1]);
        for (std::int64_t i = 0; i < indices.shape[1]; ++i) {
          const I row = from[i];
          if (row < 0 || static_cast<std::int64_t>(row) >= rows) {
            check.value_error("indices has " + std::to_string(row) + ", expected 0 to " +
                              std::to_string(rows - 1) + ", " + of);
          }
          to[i] = static_cast<std::int32_t>(row);
        }
      }
    });
  }

  [[nodiscard]] std::int32_t* at(std::int64_t i) const noexcept {
    return copy_.as<std::int32_t>() + i;
  }

 private:
  Scratch copy_;
};

/// What is read, as matrices.
struct Operands {
  RowsIn rows_of_indices, rows_of_values;
  const TensorView &indices, &values;

  explicit Operands(const Decoding& given)
      : rows_of_indices(given.indices),
        rows_of_values(given.values),
        indices(rows_of_indices.view()),
        values(rows_of_values.view()) {}
};

/// Rows of x [·, n] side by side, in the type that sums are kept in.
class Wide {
 public:
  explicit Wide(const TensorView& x)
      : bytes_(x.shape[1] * real_size(x.dtype)), copy_(x.numel() * real_size(x.dtype)) {
    widen_rows(x, copy_.data());
  }
  [[nodiscard]] const std::byte* row(std::int64_t i) const noexcept {
    return copy_.data() + i * bytes_;
  }

 private:
  std::int64_t bytes_;
  Scratch copy_;
};

double nanoseconds(std::int64_t entries, std::int64_t width) {
  return 0.05 * static_cast<double>(entries) * static_cast<double>(width);
}

/// Calls body(row) for each of `rows` rows, of which each takes `work` multiply-adds.
template <class F>
void for_rows(std::int64_t rows, std::int64_t work, F&& body) {
  const EqualRanges ranges = equal_rows(rows, rows * work);
  for_tasks(ranges.count, nanoseconds(rows, work), [&](std::int64_t task) {
    for (std::int64_t row = ranges.begin(task); row < ranges.end(task); ++row) body(row);
  });
}

}  // namespace

void gather_decode(const TensorView& indices, const TensorView& values, const TensorView& table,
                   const TensorView& out, const std::optional<TensorView>& bias) {
  const FloatEnvironment floats;
  const Checker check("gather_decode");
  const Decoding given = check_gather_decode(check, indices, values, table, out, bias);
  const Operands all(given);
  const RowsOut result(given.out, false);
  const Rows rows(check, all.indices, table.shape[0], "the rows of table");
  if (out.numel() == 0) return;
  const Wide weights(all.values);
  const std::int64_t tokens = result.view().shape[0], k = all.values.shape[1];
  const std::int64_t width = table.shape[1];
  const auto token = [&](std::int64_t t, auto&& sum) {
    TensorView row = result.view();
    row.shape[0] = 1;
    row.data = static_cast<std::byte*>(row.data) + t * row.strides[0] * size_of(row.dtype);
    sum(WeightedRows{.table = table, .rows = rows.at(t * k), .count = k, .weights = weights.row(t)},
        row);
  };
  const Epilogue epilogue{.bias = bias};
  if (tokens < 2 * num_threads()) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      token(t, [&](const WeightedRows& sum, const TensorView& row) {
        sum_weighted_rows(sum, row, epilogue);
      });
    }
  } else {
    for_rows(tokens, (k + 1) * width, [&](std::int64_t t) {
      token(t, [&](const WeightedRows& sum, const TensorView& row) {
        sum_columns(sum, row, epilogue, 0, width);
      });
    });
  }
  result.write();
}

void gather_decode_backward(const TensorView& dy, const TensorView& indices,
                            const TensorView& values, const TensorView& table,
                            const std::optional<TensorView>& dvalues,
                            const std::optional<TensorView>& dtable) {
  const FloatEnvironment floats;
  const Checker check("gather_decode_backward");
  const Decoding given =
      check_gather_decode_backward(check, dy, indices, values, table, dvalues, dtable);
  const Operands all(given);
  const RowsIn rows_of_dy(given.out);
  const TensorView& dy_rows = rows_of_dy.view();
  const Rows rows(check, all.indices, table.shape[0], "the rows of table");
  const std::int64_t tokens = all.values.shape[0], k = all.values.shape[1];
  const std::int64_t width = table.shape[1], real = real_size(table.dtype);
  const std::int64_t item = size_of(table.dtype);
  if (dvalues.has_value() && dvalues->numel() > 0) {
    for_rows(tokens, k * width, [&](std::int64_t t) {
      const Scratch wide(width * real), dots(k * real);
      const auto* from = static_cast<const std::byte*>(dy_rows.data);
      widen(from + t * dy_rows.strides[0] * item, table.dtype, width, wide.data());
      activation_kernels().dot_rows({.table = table.data,
                                     .type = table.dtype,
                                     .stride = table.strides[0],
                                     .depth = width,
                                     .rows = rows.at(t * k),
                                     .count = k,
                                     .x = wide.data(),
                                     .x_stride = width,
                                     .tokens = 1,
                                     .dots = dots.data(),
                                     .ld = k,
                                     .multiply = false});
      narrow(dots.data(), k, static_cast<std::byte*>(dvalues->data) + t * k * item, table.dtype);
    });
  }
  if (!dtable.has_value() || dtable->numel() == 0) return;
  // The entries of each row of the table, in the order of tokens: a sort by counting.
  const Wide weights(all.values);
  const std::int64_t count = all.values.numel(), height = table.shape[0];
  const Scratch starts((height + 1) * 8), order(count * 4), sorted(count * real);
  auto* start = starts.as<std::int64_t>();
  std::fill_n(start, height + 1, 0);
  for (std::int64_t p = 0; p < count; ++p) ++start[*rows.at(p)];
  std::int64_t before = 0;
  for (std::int64_t h = 0; h <= height; ++h) {
    const std::int64_t n = start[h];
    start[h] = before;
    before += n;
  }
  for (std::int64_t p = 0; p < count; ++p) {
    const std::int64_t to = start[*rows.at(p)]++;
    order.as<std::int32_t>()[to] = static_cast<std::int32_t>(p / k);
    std::memcpy(sorted.data() + to * real, weights.row(0) + p * real,
                static_cast<std::size_t>(real));
  }
  // Each start has become the next row's.
  std::memmove(start + 1, start, static_cast<std::size_t>(height * 8));
  start[0] = 0;
  const RowCut cut{.pieces = std::int64_t{8} * num_threads(), .row_cost = 1};
  for_ranges(cut_rows({.data = start, .wide = true}, height, cut),
             nanoseconds(count + height, width), [&](std::int64_t row0, std::int64_t row1) {
               const Scratch sums(width * real);
               for (std::int64_t h = row0; h < row1; ++h) {
                 activation_kernels().sum_rows({.table = dy_rows.data,
                                                .type = table.dtype,
                                                .stride = dy_rows.strides[0],
                                                .cols = width,
                                                .rows = order.as<std::int32_t>() + start[h],
                                                .count = start[h + 1] - start[h],
                                                .weights = sorted.data() + start[h] * real,
                                                .weights_stride = 0,
                                                .tokens = 1,
                                                .sums = sums.data(),
                                                .ld = width,
                                                .accumulate = false});
                 narrow(sums.data(), width,
                        static_cast<std::byte*>(dtable->data) + h * width * item, table.dtype);
               }
             });
}

void topk_rows_backward(const TensorView& dy, const TensorView& indices, const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("topk_rows_backward");
  const Decoding given = check_topk_rows_backward(check, dy, indices, out);
  const Operands all(given);
  const RowsOut result(given.out, false);
  const TensorView& rows = result.view();
  const std::int64_t tokens = rows.shape[0], width = rows.shape[1];
  const std::int64_t k = all.values.shape[1], item = size_of(out.dtype);
  const Rows columns(check, all.indices, width, "the columns of out");
  if (out.numel() == 0) return;
  for_rows(tokens, width, [&](std::int64_t t) {
    auto* to = static_cast<std::byte*>(rows.data) + t * rows.strides[0] * item;
    const auto* from =
        static_cast<const std::byte*>(all.values.data) + t * all.values.strides[0] * item;
    std::memset(to, 0, static_cast<std::size_t>(width * item));
    for (std::int64_t i = 0; i < k; ++i) {
      std::memcpy(to + *columns.at(t * k + i) * item, from + i * item,
                  static_cast<std::size_t>(item));
    }
  });
  result.write();
}

}  // namespace gossamer
