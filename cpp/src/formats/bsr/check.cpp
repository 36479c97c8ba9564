#include "formats/check.h"

#include <string>

#include "gossamer/detail/format_checks.h"

namespace gossamer::detail {
namespace {

/// The block divides the shape of `w`, a matrix.
void check_block(const Checker& check, const TensorView& w, std::int64_t block_rows,
                 std::int64_t block_cols) {
  check.rank({"w", w}, {2});
  const std::int64_t sides[] = {block_rows, block_cols};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::string number = std::to_string(axis), side = std::to_string(sides[axis]);
    const std::string name = "block[" + number + "]";
    if (sides[axis] < 1) check.value_error(name + " is " + side + ", expected at least 1");
    if (w.shape[axis] % sides[axis] != 0) {
      check.value_error("w.shape[" + number + "] is " + std::to_string(w.shape[axis]) +
                        ", expected a multiple of " + name + " = " + side);
    }
  }
}

PointerCount pointers_of(const TensorView& w, std::int64_t block_rows) {
  return {.size = w.shape[0] / block_rows + 1, .text = "w.shape[0] / block[0] + 1"};
}

}  // namespace

void check_bsr_count(const Checker& check, const TensorView& w,
                     const std::optional<TensorView>& mask, std::int64_t block_rows,
                     std::int64_t block_cols, const TensorView& indptr) {
  check_block(check, w, block_rows, block_cols);
  check_counted(check, w, mask, indptr, pointers_of(w, block_rows));
}

void check_bsr_fill(const Checker& check, const TensorView& w,
                    const std::optional<TensorView>& mask, const TensorView& indptr,
                    const TensorView& indices, const TensorView& blocks) {
  check.rank({"blocks", blocks}, {3});
  check_block(check, w, blocks.shape[1], blocks.shape[2]);
  check_filled(check, w, mask, indptr, pointers_of(w, blocks.shape[1]), indices, {"blocks", blocks},
               3);
}

void check_bsr_to_dense(const Checker& check, const Bsr& a, const TensorView& out) {
  check_dense_output(check, a, {"a.blocks", a.blocks()}, out);
}

void check_bsr_transpose(const Checker& check, const Bsr& a, const TensorView& indptr,
                         const TensorView& indices, const std::optional<TensorView>& blocks,
                         const TensorView& permutation) {
  check.dtype({"indptr", indptr}, a.index_dtype(), "a.indices");
  check.dtype({"indices", indices}, a.index_dtype(), "a.indices");
  check.dtype({"permutation", permutation}, a.index_dtype(), "a.indices");
  const std::initializer_list<Argument> inputs = {
      {"a.indptr", a.indptr()}, {"a.indices", a.indices()}, {"a.blocks", a.blocks()}};
  const auto check_part = [&](const Argument& out, std::int64_t size, const char* what,
                              int rank = 1) {
    check_output(check, out, a.device(), "a", size, what, inputs, rank);
  };
  check_part({"indptr", indptr}, a.cols() / a.block_cols() + 1, "a.shape[1] / a.block[1] + 1");
  check_part({"indices", indices}, a.nblocks(), "a.nblocks");
  check_part({"permutation", permutation}, a.nblocks(), "a.nblocks");
  if (!blocks) return;
  check.dtype({"blocks", *blocks}, a.dtype(), "a");
  check_part({"blocks", *blocks}, a.nblocks(), "a.nblocks", 3);
  check.extent({"blocks", *blocks}, 1, a.block_cols(), "a.block[1]");
  check.extent({"blocks", *blocks}, 2, a.block_rows(), "a.block[0]");
}

}  // namespace gossamer::detail
