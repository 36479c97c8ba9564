#include "formats/compressed.h"

#include <memory>
#include <string>

#include "base/buffer.h"
#include "base/cut.h"
#include "formats/csr/kernels.h"

namespace gossamer::detail {
namespace {

/// Throws for the first wrong column of row `row`, if there is one.
template <class I>
void check_row(const Checker& check, const I* indptr, const I* indices, std::int64_t row,
               Side cols) {
  for (std::int64_t p = indptr[row]; p < indptr[row + 1]; ++p) {
    const std::string got = "indices[" + text(p) + "] is " + text(indices[p]);
    if (indices[p] < 0) check.value_error(got + ", expected at least 0");
    if (indices[p] >= cols.extent) {
      check.value_error(got + ", expected less than " + cols.text + " = " + text(cols.extent));
    }
    if (p > indptr[row] && indices[p] <= indices[p - 1]) {
      check.value_error(got + ", expected more than indices[" + text(p - 1) +
                        "] = " + text(indices[p - 1]) + " in row " + text(row));
    }
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

/// `indptr` has been checked.
template <class I>
void check_entries(const Checker& check, const I* indptr, const I* indices, std::int64_t rows,
                   Side cols) {
  constexpr bool kWide = sizeof(I) == 8;
  const RowRanges pieces =
      cut_rows({indptr, kWide}, rows, {.pieces = task_count(rows + indptr[rows]), .row_cost = 1});
  const std::unique_ptr<bool[]> valid(new bool[static_cast<std::size_t>(pieces.count())]);
  parallel_for(pieces.count(), [&](std::int64_t piece) {
    csr_kernels().csr_check({.wide = kWide,
                             .indptr = indptr,
                             .indices = indices,
                             .row0 = pieces.begin(piece),
                             .row1 = pieces.end(piece),
                             .cols = cols.extent,
                             .valid = &valid[static_cast<std::size_t>(piece)]});
  });
  for (std::int64_t piece = 0; piece < pieces.count(); ++piece) {
    if (valid[static_cast<std::size_t>(piece)]) continue;
    for (std::int64_t row = pieces.begin(piece); row < pieces.end(piece); ++row) {
      check_row(check, indptr, indices, row, cols);
    }
  }
}

}  // namespace

void check_structure(const Checker& check, const TensorView& indptr, const TensorView& indices,
                     Side rows, Side cols, bool trusted) {
  check_row_count(check, indptr, rows);
  if (trusted || indptr.device.type != DeviceType::cpu) return;
  check_indptr(check, indptr, rows.extent, indices.shape[0]);
  with_index_type(indptr.dtype, [&](auto type) {
    using I = decltype(type);
    check_entries(check, static_cast<const I*>(indptr.data), static_cast<const I*>(indices.data),
                  rows.extent, cols);
  });
}

void check_indptr(const Checker& check, const TensorView& indptr, std::int64_t rows,
                  std::int64_t nnz) {
  const RowPointers pointers{indptr.data, indptr.dtype == DType::i64};
  if (pointers[0] != 0) check.value_error("indptr[0] is " + text(pointers[0]) + ", expected 0");
  std::int64_t bad = -1;
  with_index_type(indptr.dtype, [&](auto type) {
    bad = first_descent(static_cast<const decltype(type)*>(indptr.data), rows + 1);
  });
  if (bad >= 0) {
    check.value_error("indptr[" + text(bad) + "] is " + text(pointers[bad]) +
                      ", expected at least indptr[" + text(bad - 1) +
                      "] = " + text(pointers[bad - 1]));
  }
  if (pointers[rows] != nnz) {
    check.value_error("indices.shape[0] is " + text(nnz) +
                      ", expected indptr[-1] = " + text(pointers[rows]));
  }
}

void use_huge_pages(const TensorView& out) {
  if (out.numel() == 0) return;
  const std::int64_t rows =
      out.rank == 2 && out.shape[0] > 1 ? out.shape[0] * out.strides[0] : out.numel();
  ask_for_huge_pages(out.data, rows * size_of(out.dtype));
}

}  // namespace gossamer::detail
