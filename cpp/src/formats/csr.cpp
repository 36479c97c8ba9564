#include "gossamer/csr.h"

#include <algorithm>
#include <limits>
#include <string>

#include "formats/csr_index.h"
#include "isa.h"
#include "ops/check.h"
#include "pool.h"

namespace gossamer {
namespace {

const Checker kCheck("CSR");

std::string text(std::int64_t n) { return std::to_string(n); }

void check_array(const Argument& array, Device device) {
  kCheck.rank(array, {1});
  if (!(array.view.device == device)) {
    kCheck.value_error(std::string(array.name) + " is on " + to_string(array.view.device) +
                       ", expected indptr's device " + to_string(device));
  }
  kCheck.layout(array);
  if (array.view.data == nullptr && array.view.numel() > 0) {
    kCheck.value_error(std::string(array.name) + " has no data");
  }
}

void check_values(const Argument& values, Device device, std::int64_t nnz) {
  if (!is_floating(values.view.dtype)) {
    kCheck.type_error(std::string(values.name) + ".dtype is " + name_of(values.view.dtype) +
                      ", expected float32, float64, float16 or bfloat16");
  }
  check_array(values, device);
  kCheck.extent(values, 0, nnz, "indices.shape[0]");
}

void check_extent(const char* name, std::int64_t extent, DType index) {
  if (extent < 0)
    kCheck.value_error(std::string(name) + " is " + text(extent) + ", expected at least 0");
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  if (index == DType::i32 && extent > kMax) {
    kCheck.value_error(std::string(name) + " is " + text(extent) + ", expected at most " +
                       text(kMax) + " for int32 indices");
  }
}

/// Throws for the first wrong column of row `row`, if there is one.
template <class I>
void check_row(const I* indptr, const I* indices, std::int64_t row, std::int64_t cols) {
  for (std::int64_t p = indptr[row]; p < indptr[row + 1]; ++p) {
    const std::string got = "indices[" + text(p) + "] is " + text(indices[p]);
    if (indices[p] < 0) kCheck.value_error(got + ", expected at least 0");
    if (indices[p] >= cols) {
      kCheck.value_error(got + ", expected less than shape[1] = " + text(cols));
    }
    if (p > indptr[row] && indices[p] <= indices[p - 1]) {
      kCheck.value_error(got + ", expected more than indices[" + text(p - 1) +
                         "] = " + text(indices[p - 1]) + " in row " + text(row));
    }
  }
}

template <class I>
void check_structure(const I* indptr, const I* indices, std::int64_t rows, std::int64_t cols,
                     std::int64_t nnz) {
  check_indptr(kCheck, indptr, rows, nnz);
  const RowChunks<I> chunks(indptr, rows);
  const std::unique_ptr<bool[]> valid(new bool[static_cast<std::size_t>(chunks.count())]);
  parallel_for(chunks.count(), [&](std::int64_t task) {
    kernel_table().csr_check({.wide = sizeof(I) == 8,
                              .indptr = indptr,
                              .indices = indices,
                              .row0 = chunks.begin(task),
                              .row1 = chunks.begin(task + 1),
                              .cols = cols,
                              .valid = &valid[static_cast<std::size_t>(task)]});
  });
  for (std::int64_t task = 0; task < chunks.count(); ++task) {
    if (valid[static_cast<std::size_t>(task)]) continue;
    for (std::int64_t row = chunks.begin(task); row < chunks.begin(task + 1); ++row) {
      check_row(indptr, indices, row, cols);
    }
  }
}

}  // namespace

Csr::Csr(const TensorView& indptr, const TensorView& indices, const TensorView& values,
         std::int64_t rows, std::int64_t cols, Check check)
    : indptr_(indptr), indices_(indices), values_(values), rows_(rows), cols_(cols) {
  if (indptr.dtype != DType::i32 && indptr.dtype != DType::i64) {
    kCheck.type_error(std::string("indptr.dtype is ") + name_of(indptr.dtype) +
                      ", expected int32 or int64");
  }
  kCheck.dtype({"indices", indices}, indptr.dtype, "indptr");
  check_extent("shape[0]", rows, indptr.dtype);
  check_extent("shape[1]", cols, indptr.dtype);
  check_array({"indptr", indptr}, indptr.device);
  check_array({"indices", indices}, indptr.device);
  check_values({"values", values}, indptr.device, indices.shape[0]);
  if (indptr.shape[0] - 1 != rows) {
    kCheck.value_error("indptr.shape[0] is " + text(indptr.shape[0]) +
                       ", expected shape[0] + 1 = " + text(rows) + " + 1");
  }
  if (check == Check::trust || indptr.device.type != DeviceType::cpu) return;
  with_index_type(indptr.dtype, [&](auto type) {
    using I = decltype(type);
    check_structure(static_cast<const I*>(indptr.data), static_cast<const I*>(indices.data), rows,
                    cols, indices.shape[0]);
  });
}

Csr Csr::with_values(const TensorView& values) const {
  check_values({"values", values}, device(), nnz());
  Csr result = *this;
  result.values_ = values;
  return result;
}

}  // namespace gossamer
