// CSR matrices of coordinate lists: a stable radix sort by column, then by row.

#include <algorithm>
#include <bit>
#include <limits>
#include <string>
#include <vector>

#include "base/floats.h"
#include "base/index.h"
#include "base/interrupt.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "formats/check.h"
#include "gossamer/csr.h"
#include "gossamer/detail/check.h"

namespace gossamer {
using namespace detail;
namespace {

constexpr std::int64_t kBetweenLooks = std::int64_t{1} << 20;  // some ms
constexpr int kDigit = 11;  // bits that a pass sorts by: its counters stay in L1
constexpr std::int64_t kMaxExtent = std::int64_t{1} << 62;
const Checker kCooCheck("CSR.from_coo");

/// A copy of a list, whose elements follow one another: what is counted or checked does not change
/// meanwhile, as the caller's may.
class Listed {
 public:
  explicit Listed(const TensorView& list)
      : copy_(list.numel() * size_of(list.dtype)),
        view_(
            make_view(static_cast<void*>(copy_.data()), list.dtype, {list.shape[0]}, list.device)) {
    if (list.numel() > 0) flatten(list, copy_.data());
  }
  [[nodiscard]] const TensorView& view() const noexcept { return view_; }

 private:
  Scratch copy_;
  TensorView view_;
};

void check_side(const Argument& array, std::int64_t extent, const char* axis) {
  const InterruptPoll poll;
  kCooCheck.index(array);
  const TensorView& view = array.view;
  with_index_type(view.dtype, [&](auto type) {
    const auto* data = static_cast<const decltype(type)*>(view.data);
    for (std::int64_t p = 0; p < view.shape[0]; ++p) {
      if (p % kBetweenLooks == 0) poll.look();
      const std::int64_t index = data[p];
      if (index >= 0 && index < extent) continue;
      const std::string got = std::string(array.name) + "[" + text(p) + "] is " + text(index);
      if (index < 0) kCooCheck.value_error(got + ", expected at least 0");
      kCooCheck.value_error(got + ", expected less than " + axis + " = " + text(extent));
    }
  });
}

/// Sorts `order` by keys[order[p]] < `extent`, keeping what is equal in its order.
template <class I>
void sort_by(const I* keys, std::int64_t extent, std::int64_t n, std::int64_t* order,
             std::int64_t* other) {
  const InterruptPoll poll;
  const auto largest = static_cast<std::uint64_t>(std::max<std::int64_t>(extent - 1, 0));
  const int bits = static_cast<int>(std::bit_width(largest));
  std::int64_t* to = other;
  std::vector<std::int64_t> starts(std::size_t{1} << kDigit);
  for (int shift = 0; shift < bits; shift += kDigit, std::swap(order, to)) {
    const auto digit = [&](std::int64_t p) {
      return (static_cast<std::size_t>(keys[p]) >> shift) & ((std::size_t{1} << kDigit) - 1);
    };
    std::fill(starts.begin(), starts.end(), 0);
    for (std::int64_t p = 0; p < n; ++p) ++starts[digit(p)];
    std::int64_t sum = 0;
    for (std::int64_t& start : starts) sum += std::exchange(start, sum);
    for (std::int64_t p = 0; p < n; ++p) {
      to[starts[digit(order[p])]++] = order[p];
      if (p % kBetweenLooks == 0) poll.look();
    }
  }
  if (order == other) std::copy_n(other, n, to);
}

[[noreturn]] void refuse_change() {
  kCooCheck.value_error("index changed while it was read, expected the same places twice");
}

template <class F>
void with_sides(const TensorView& row, const TensorView& col, F&& body) {
  with_index_type(row.dtype, [&](auto r) {
    with_index_type(col.dtype, [&](auto c) {
      body(static_cast<const decltype(r)*>(row.data), static_cast<const decltype(c)*>(col.data));
    });
  });
}

}  // namespace

std::int64_t csr_from_coo_count(const TensorView& row, const TensorView& col, std::int64_t rows,
                                std::int64_t cols, Duplicates duplicates, const TensorView& order,
                                const TensorView& indptr) {
  const FloatEnvironment floats;
  if (rows < 0) kCooCheck.value_error("shape[0] is " + text(rows) + ", expected at least 0");
  if (cols < 0) kCooCheck.value_error("shape[1] is " + text(cols) + ", expected at least 0");
  for (const std::int64_t extent : {rows, cols}) {
    if (extent > kMaxExtent) {
      kCooCheck.value_error("shape has " + text(extent) + ", expected at most " + text(kMaxExtent));
    }
  }
  kCooCheck.rank({"row", row}, {1});
  kCooCheck.rank({"col", col}, {1});
  kCooCheck.device({"row", row}, row.device, "row");
  kCooCheck.device({"col", col}, row.device, "row");
  kCooCheck.extent({"col", col}, 0, row.shape[0], "row.shape[0]");
  const std::int64_t n = row.shape[0];
  kCooCheck.index({"indptr", indptr});
  kCooCheck.dtype({"order", order}, DType::i64, "int64");
  check_output(kCooCheck, {"order", order}, row.device, "row", n, "row.shape[0]",
               {{"row", row}, {"col", col}});
  check_output(kCooCheck, {"indptr", indptr}, row.device, "row", rows + 1, "shape[0] + 1",
               {{"row", row}, {"col", col}, {"order", order}});
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  if (indptr.dtype == DType::i32 && std::max(n, cols) > kMax) {
    kCooCheck.value_error("indptr.dtype is int32, expected int64 for " + text(n) + " entries in " +
                          text(cols) + " columns");
  }
  kCooCheck.index({"row", row});
  kCooCheck.index({"col", col});
  const Listed row_list(row), col_list(col);
  check_side({"row", row_list.view()}, rows, "shape[0]");
  check_side({"col", col_list.view()}, cols, "shape[1]");

  const InterruptPoll poll;
  auto* sorted = static_cast<std::int64_t*>(order.data);
  for (std::int64_t p = 0; p < n; ++p) sorted[p] = p;
  const Scratch other(n * 8);
  std::int64_t nnz = 0;
  with_sides(row_list.view(), col_list.view(), [&](const auto* r, const auto* c) {
    sort_by(c, cols, n, sorted, other.as<std::int64_t>());
    sort_by(r, rows, n, sorted, other.as<std::int64_t>());
    with_index_type(indptr.dtype, [&](auto type) {
      using I = decltype(type);
      auto* starts = static_cast<I*>(indptr.data);
      std::fill_n(starts, rows + 1, I{0});
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t p = sorted[i];
        if (i % kBetweenLooks == 0) poll.look();
        if (i > 0 && r[p] == r[sorted[i - 1]] && c[p] == c[sorted[i - 1]]) {
          if (duplicates == Duplicates::sum) continue;
          kCooCheck.value_error("entries " + text(sorted[i - 1]) + " and " + text(p) +
                                " are both at (" + text(r[p]) + ", " + text(c[p]) +
                                "), expected no duplicates");
        }
        ++starts[r[p] + 1];
        ++nnz;
      }
      for (std::int64_t i = 0; i < rows; ++i) starts[i + 1] += starts[i];
    });
  });
  return nnz;
}

void csr_from_coo_fill(const TensorView& row, const TensorView& col,
                       const std::optional<TensorView>& values, const TensorView& order,
                       const TensorView& indptr, const TensorView& indices,
                       const std::optional<TensorView>& sums) {
  const FloatEnvironment floats;
  const std::int64_t n = row.shape[0];
  kCooCheck.dtype({"indices", indices}, indptr.dtype, "indptr");
  check_output(kCooCheck, {"indices", indices}, row.device, "row", indices.shape[0], "nnz",
               {{"row", row}, {"col", col}, {"order", order}});
  if (values) {
    kCooCheck.floating({"values", *values});
    kCooCheck.rank({"values", *values}, {1});
    kCooCheck.device({"values", *values}, row.device, "row");
    kCooCheck.extent({"values", *values}, 0, n, "row.shape[0]");
    if (!sums) kCooCheck.value_error("sums is missing, expected an array for those of values");
    kCooCheck.dtype({"sums", *sums}, values->dtype, "values");
    check_output(kCooCheck, {"sums", *sums}, row.device, "row", indices.shape[0],
                 "indices.shape[0]", {{"values", *values}, {"order", order}, {"indices", indices}});
  }
  const Listed row_list(row), col_list(col);
  const std::optional<Listed> value_list =
      values ? std::make_optional<Listed>(*values) : std::nullopt;
  const auto* sorted = static_cast<const std::int64_t*>(order.data);
  const bool f64 = values && values->dtype == DType::f64;
  const std::int64_t nnz = indices.shape[0];
  const Scratch wide(values && !f64 ? n * 4 : 0), total(values && !f64 ? nnz * 4 : 0);
  if (values && !f64) widen(value_list->view().data, values->dtype, n, wide.data());

  const InterruptPoll poll;
  const auto fill = [&](const auto* from, auto* to) {
    with_sides(row_list.view(), col_list.view(), [&](const auto* r, const auto* c) {
      with_index_type(indices.dtype, [&](auto type) {
        auto* columns = static_cast<decltype(type)*>(indices.data);
        std::int64_t at = -1;
        for (std::int64_t i = 0; i < n; ++i) {
          const std::int64_t p = sorted[i];
          if (i % kBetweenLooks == 0) poll.look();
          const bool repeated = i > 0 && r[p] == r[sorted[i - 1]] && c[p] == c[sorted[i - 1]];
          if (!repeated) {
            if (++at == nnz) refuse_change();
            columns[at] = static_cast<decltype(type)>(c[p]);
          }
          if (from == nullptr) continue;
          to[at] = repeated ? to[at] + from[p] : from[p];
        }
        if (at + 1 != nnz) refuse_change();
      });
    });
  };
  if (f64) {
    fill(static_cast<const double*>(value_list->view().data), static_cast<double*>(sums->data));
  } else {
    fill(values ? wide.as<const float>() : nullptr, values ? total.as<float>() : nullptr);
    if (values) narrow(total.data(), nnz, sums->data, sums->dtype);
  }
}

}  // namespace gossamer
