#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

#include "base/work.h"
#include "gossamer/detail/check.h"
#include "gossamer/runtime.h"
#include "gossamer/tensor.h"

// What the CSR format's checks and conversions share: index types and the cutting of rows into
// tasks.

namespace gossamer::detail {

/// Calls f(I{}) for the index type I.
template <class F>
void with_index_type(DType type, F&& f) {
  if (type == DType::i64) {
    f(std::int64_t{});
  } else {
    f(std::int32_t{});
  }
}

/// First i in [1, size) with data[i] < data[i-1], or -1.
template <class I>
std::int64_t first_descent(const I* data, std::int64_t size) {
  constexpr std::int64_t kBlock = 4096;
  for (std::int64_t i = 1; i < size; i += kBlock) {
    const std::int64_t stop = std::min(size, i + kBlock);
    int descents = 0;
    for (std::int64_t j = i; j < stop; ++j) descents += data[j] < data[j - 1];
    if (descents == 0) continue;
    while (data[i] >= data[i - 1]) ++i;
    return i;
  }
  return -1;
}

/// Throws unless indptr starts at 0, never falls and ends at nnz.
template <class I>
void check_indptr(const Checker& check, const I* indptr, std::int64_t rows, std::int64_t nnz) {
  const auto text = [](std::int64_t n) { return std::to_string(n); };
  if (indptr[0] != 0) check.value_error("indptr[0] is " + text(indptr[0]) + ", expected 0");
  const std::int64_t bad = first_descent(indptr, rows + 1);
  if (bad >= 0) {
    check.value_error("indptr[" + text(bad) + "] is " + text(indptr[bad]) +
                      ", expected at least indptr[" + text(bad - 1) +
                      "] = " + text(indptr[bad - 1]));
  }
  if (indptr[rows] != nnz) {
    check.value_error("indices.shape[0] is " + text(nnz) +
                      ", expected indptr[-1] = " + text(indptr[rows]));
  }
}

/// Consecutive ranges of rows with about equal numbers of rows plus entries.
template <class I>
class RowChunks {
 public:
  RowChunks(const I* indptr, std::int64_t rows)
      : RowChunks(indptr, rows, task_count(rows + indptr[rows])) {}
  RowChunks(const I* indptr, std::int64_t rows, std::int64_t count)
      : indptr_(indptr), rows_(rows), work_(rows + indptr[rows]), count_(count) {}

  [[nodiscard]] std::int64_t count() const noexcept { return count_; }

  /// First row of chunk `task`; begin(count()) is the number of rows.
  [[nodiscard]] std::int64_t begin(std::int64_t task) const noexcept {
    if (task == count_) return rows_;
    const std::int64_t target = work_ / count_ * task + std::min(task, work_ % count_);
    std::int64_t low = 0, high = rows_;
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (middle + indptr_[middle] < target) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

 private:
  const I* indptr_;
  std::int64_t rows_, work_, count_;
};

}  // namespace gossamer::detail
