#include <limits>
#include <string>

#include "gossamer/detail/layout_checks.h"

namespace gossamer::detail {
namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

const Checker kLayout("BlockLayout");

std::string text(std::int64_t n) { return std::to_string(n); }

}  // namespace

void check_layout_source(const Checker& check, const BlockMask& source) {
  check.mask({"mask", source.mask});
  check.rank({"mask", source.mask}, {4});
  check.device({"mask", source.mask}, source.mask.device, "mask");
}

void check_layout_source(const Checker& check, const BlockLists& source) {
  const Argument indices{"indices", source.indices};
  check.index(indices);
  check.rank(indices, {4});
  check.device(indices, source.indices.device, "indices");
  if (source.cols < 0) {
    check.value_error("cols is " + text(source.cols) + ", expected at least 0");
  }
  if (source.cols > kMaxInt32) {
    check.value_error("cols is " + text(source.cols) + ", expected less than 2**31");
  }
  if (!source.counts) return;
  const auto& shape = source.indices.shape;
  check.index({"counts", *source.counts});
  check.shape({"counts", *source.counts}, {shape[0], shape[1], shape[2]});
  check.device({"counts", *source.counts}, source.indices.device, "indices");
}

std::int64_t check_layout_rows(const LayoutShape& shape, const TensorView& indptr) {
  std::int64_t heads = 0, rows = 0;
  if (__builtin_mul_overflow(shape.batch, shape.heads, &heads) ||
      __builtin_mul_overflow(heads, shape.rows, &rows) || rows >= kMaxInt32) {
    kLayout.value_error("the pattern has 2**31 rows of blocks or more, expected fewer");
  }
  kLayout.dtype({"indptr", indptr}, DType::i32, "int32");
  kLayout.shape({"indptr", indptr}, {rows + 1});
  kLayout.contiguous({"indptr", indptr});
  kLayout.writable({"indptr", indptr}, {});
  return rows;
}

void refuse_column(const Checker& check, const BlockLists& source, std::int64_t column) {
  check.value_error("indices has " + text(column) + ", expected -1 to " + text(source.cols - 1));
}

void refuse_count(const Checker& check, const BlockLists& source, std::int64_t count) {
  check.value_error("counts has " + text(count) +
                    ", expected 0 to indices.shape[-1] = " + text(source.indices.shape[3]));
}

void check_layout_blocks(std::int64_t blocks) {
  if (blocks > kMaxInt32) {
    kLayout.value_error("the pattern keeps 2**31 blocks or more, expected fewer");
  }
}

}  // namespace gossamer::detail
