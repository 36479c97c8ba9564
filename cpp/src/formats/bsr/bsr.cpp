#include "gossamer/bsr.h"

#include <string>

#include "formats/compressed.h"
#include "gossamer/detail/check.h"

namespace gossamer {
using namespace detail;
namespace {

const Checker kCheck("BSR");

std::string text(std::int64_t n) { return std::to_string(n); }

void check_block(const TensorView& blocks, int axis, std::int64_t extent) {
  const std::int64_t side = blocks.shape[static_cast<std::size_t>(axis)];
  const std::string name = "blocks.shape[" + text(axis) + "]";
  if (side < 1) kCheck.value_error(name + " is " + text(side) + ", expected at least 1");
  if (extent % side != 0) {
    kCheck.value_error("shape[" + text(axis - 1) + "] is " + text(extent) +
                       ", expected a multiple of " + name + " = " + text(side));
  }
}

}  // namespace

Bsr::Bsr(const TensorView& indptr, const TensorView& indices, const TensorView& blocks,
         std::int64_t rows, std::int64_t cols, Check check)
    : indptr_(indptr), indices_(indices), blocks_(blocks), rows_(rows), cols_(cols) {
  check_index_arrays(kCheck, indptr, indices, rows, cols);
  check_values(kCheck, {"blocks", blocks}, 3, indptr.device, indices.shape[0]);
  check_block(blocks, 1, rows);
  check_block(blocks, 2, cols);
  check_structure(kCheck, indptr, indices, {rows / block_rows(), "shape[0] / blocks.shape[1]"},
                  {cols / block_cols(), "shape[1] / blocks.shape[2]"}, check == Check::trust);
}

Bsr Bsr::with_values(const TensorView& blocks) const {
  check_values(kCheck, {"blocks", blocks}, 3, device(), nblocks());
  const Argument argument{"blocks", blocks};
  kCheck.extent(argument, 1, block_rows(), "the block's rows");
  kCheck.extent(argument, 2, block_cols(), "the block's columns");
  Bsr result = *this;
  result.blocks_ = blocks;
  return result;
}

}  // namespace gossamer
