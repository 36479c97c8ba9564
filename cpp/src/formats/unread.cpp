// What formats check of their arrays without reading them, on whatever device: shapes, types,
// layout.

#include <limits>
#include <string>

#include "formats/compressed.h"
#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/detail/check.h"
#include "gossamer/detail/format_checks.h"
#include "gossamer/layout.h"
#include "gossamer/nm.h"

namespace gossamer {
namespace detail {
namespace {

/// Sizes up to this may be rounded up and added without a check.
constexpr std::int64_t kMaxExtent = std::int64_t{1} << 62;
constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

void check_array(const Checker& check, const Argument& array, int rank, Device device) {
  check.rank(array, {rank});
  if (!(array.view.device == device)) {
    check.value_error(std::string(array.name) + " is on " + to_string(array.view.device) +
                      ", expected indptr's device " + to_string(device));
  }
  check.contiguous(array);
  if (array.view.data == nullptr && array.view.numel() > 0) {
    check.value_error(std::string(array.name) + " has no data");
  }
}

void check_extent(const Checker& check, const char* name, std::int64_t extent, DType index) {
  if (extent < 0) {
    check.value_error(std::string(name) + " is " + text(extent) + ", expected at least 0");
  }
  if (extent > kMaxExtent) {
    check.value_error(std::string(name) + " is " + text(extent) + ", expected at most " +
                      text(kMaxExtent));
  }
  if (index == DType::i32 && extent > kMaxInt32) {
    check.value_error(std::string(name) + " is " + text(extent) + ", expected at most " +
                      text(kMaxInt32) + " for int32 indices");
  }
}

}  // namespace

void check_index_arrays(const Checker& check, const TensorView& indptr, const TensorView& indices,
                        std::int64_t rows, std::int64_t cols) {
  check.index({"indptr", indptr});
  check.dtype({"indices", indices}, indptr.dtype, "indptr");
  check_extent(check, "shape[0]", rows, indptr.dtype);
  check_extent(check, "shape[1]", cols, indptr.dtype);
  check_array(check, {"indptr", indptr}, 1, indptr.device);
  check_array(check, {"indices", indices}, 1, indptr.device);
}

void check_values(const Checker& check, const Argument& values, int rank, Device device,
                  std::int64_t entries) {
  check.floating(values);
  check_array(check, values, rank, device);
  check.extent(values, 0, entries, "indices.shape[0]");
}

void check_row_count(const Checker& check, const TensorView& indptr, Side rows) {
  if (indptr.shape[0] - 1 != rows.extent) {
    check.value_error("indptr.shape[0] is " + text(indptr.shape[0]) + ", expected " + rows.text +
                      " + 1 = " + text(rows.extent) + " + 1");
  }
}

}  // namespace detail

using namespace detail;
namespace {

const Checker kCsr("CSR"), kBsr("BSR"), kLayout("BlockLayout");

void check_block(const TensorView& blocks, int axis, std::int64_t extent) {
  const std::int64_t side = blocks.shape[static_cast<std::size_t>(axis)];
  const std::string name = "blocks.shape[" + text(axis) + "]";
  if (side < 1) kBsr.value_error(name + " is " + text(side) + ", expected at least 1");
  if (extent % side != 0) {
    kBsr.value_error("shape[" + text(axis - 1) + "] is " + text(extent) +
                     ", expected a multiple of " + name + " = " + text(side));
  }
}

void check_side(const std::string& name, std::int64_t extent, std::int64_t least) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (extent < least) {
    kLayout.value_error(name + " is " + text(extent) + ", expected at least " + text(least));
  }
  if (extent > kMost) {
    kLayout.value_error(name + " is " + text(extent) + ", expected at most " + text(kMost));
  }
}

void check_bytes(const Argument& array, int rank, Device device) {
  if (array.view.dtype != DType::u8) {
    kLayout.type_error(std::string(array.name) + ".dtype is " + name_of(array.view.dtype) +
                       ", expected uint8");
  }
  kLayout.rank(array, {rank});
  if (!(array.view.device == device)) {
    kLayout.value_error(std::string(array.name) + " is on " + to_string(array.view.device) +
                        ", expected indptr's device " + to_string(device));
  }
  kLayout.contiguous(array);
}

void check_nm_values(const Checker& check, const TensorView& values, const NmShape& shape) {
  const Argument argument{"values", values};
  check.floating(argument);
  check.device(argument, values.device, "values");
  check.shape(argument, {shape.lines, shape.slots});
  check.contiguous(argument);
  if (values.data == nullptr && values.numel() > 0) check.value_error("values has no data");
}

}  // namespace

Csr::Csr(Unread /*structure*/, const TensorView& indptr, const TensorView& indices,
         const TensorView& values, std::int64_t rows, std::int64_t cols)
    : indptr_(indptr), indices_(indices), values_(values), rows_(rows), cols_(cols) {
  check_index_arrays(kCsr, indptr, indices, rows, cols);
  check_values(kCsr, {"values", values}, 1, indptr.device, indices.shape[0]);
  check_row_count(kCsr, indptr, {rows, "shape[0]"});
}

CsrPattern::CsrPattern(Unread /*structure*/, const TensorView& indptr, const TensorView& indices,
                       std::int64_t rows, std::int64_t cols)
    : indptr_(indptr), indices_(indices), rows_(rows), cols_(cols) {
  check_index_arrays(kCsr, indptr, indices, rows, cols);
  check_row_count(kCsr, indptr, {rows, "shape[0]"});
}

Bsr::Bsr(Unread /*structure*/, const TensorView& indptr, const TensorView& indices,
         const TensorView& blocks, std::int64_t rows, std::int64_t cols)
    : indptr_(indptr), indices_(indices), blocks_(blocks), rows_(rows), cols_(cols) {
  check_index_arrays(kBsr, indptr, indices, rows, cols);
  check_values(kBsr, {"blocks", blocks}, 3, indptr.device, indices.shape[0]);
  check_block(blocks, 1, rows);
  check_block(blocks, 2, cols);
  check_row_count(kBsr, indptr, {rows / block_rows(), "shape[0] / blocks.shape[1]"});
}

Nm::Nm(Unread /*structure*/, const TensorView& values, const TensorView& indices, std::int64_t rows,
       std::int64_t cols, std::int64_t n, std::int64_t m, int axis)
    : values_(values), indices_(indices), n_(n), m_(m), axis_(axis) {
  const Checker checker("NM", values.device.type);
  const NmShape shape = check_nm_sizes(checker, "shape", rows, cols, n, m, axis);
  lines_ = shape.lines;
  length_ = axis == 1 ? cols : rows;
  check_nm_values(checker, values, shape);
  const Argument argument{"indices", indices};
  if (indices.dtype != DType::u8) {
    checker.type_error(std::string("indices.dtype is ") + name_of(indices.dtype) +
                       ", expected uint8");
  }
  checker.device(argument, values.device, "values");
  checker.shape(argument, {shape.lines, shape.index_bytes});
  checker.contiguous(argument);
  if (indices.data == nullptr && indices.numel() > 0) checker.value_error("indices has no data");
}

Nm Nm::with_values(const TensorView& values) const {
  const Checker check("NM", values.device.type);
  check_nm_values(check, values,
                  {.lines = lines_, .slots = slots(), .index_bytes = indices_.shape[1]});
  if (!(values.device == device())) {
    check.value_error("values is on " + to_string(values.device) + ", expected " +
                      to_string(device()));
  }
  Nm result = *this;
  result.values_ = values;
  return result;
}

BlockLayout::BlockLayout(Unread /*structure*/, const TensorView& indptr, const TensorView& indices,
                         const std::optional<TensorView>& kinds,
                         const std::optional<TensorView>& bits, LayoutShape shape,
                         LayoutBlock block)
    : indptr_(indptr), indices_(indices), kinds_(kinds), bits_(bits), shape_(shape), block_(block) {
  for (const Argument& array : {Argument{"indptr", indptr}, Argument{"indices", indices}}) {
    if (array.view.dtype != DType::i32) {
      kLayout.type_error(std::string(array.name) + ".dtype is " + name_of(array.view.dtype) +
                         ", expected int32");
    }
  }
  check_side("shape[0]", shape.batch, 0);
  check_side("shape[1]", shape.heads, 0);
  check_side("shape[2]", shape.rows, 0);
  check_side("shape[3]", shape.cols, 0);
  check_side("block[0]", block.rows, 1);
  check_side("block[1]", block.cols, 1);
  std::int64_t rows = 0;
  if (__builtin_mul_overflow(shape.batch * shape.heads, shape.rows, &rows)) rows = kMaxElements;
  check_side("shape[0]*shape[1]*shape[2]", rows, 0);
  check_index_arrays(kLayout, indptr, indices, rows, shape.cols);
  if (kinds) {
    check_bytes({"kinds", *kinds}, 1, indptr.device);
    kLayout.extent({"kinds", *kinds}, 0, indices.shape[0], "indices.shape[0]");
  }
  if (bits) {
    check_bytes({"bits", *bits}, 3, indptr.device);
    kLayout.extent({"bits", *bits}, 1, block.rows, "block[0]");
    kLayout.extent({"bits", *bits}, 2, (block.cols + 7) / 8, "ceil(block[1] / 8)");
    if (!kinds) kLayout.value_error("bits are given without kinds, expected both or none");
  }
  check_row_count(kLayout, indptr, {rows, "shape[0]*shape[1]*shape[2]"});
}

}  // namespace gossamer
