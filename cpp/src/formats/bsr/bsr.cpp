#include "gossamer/bsr.h"

#include "formats/compressed.h"
#include "gossamer/detail/check.h"

namespace gossamer {
using namespace detail;
namespace {

const Checker kBsrCheck("BSR");

}  // namespace

Bsr::Bsr(const TensorView& indptr, const TensorView& indices, const TensorView& blocks,
         std::int64_t rows, std::int64_t cols, Check check)
    : Bsr(Unread{}, indptr, indices, blocks, rows, cols) {
  check_structure(kBsrCheck, indptr, indices, {rows / block_rows(), "shape[0] / blocks.shape[1]"},
                  {cols / block_cols(), "shape[1] / blocks.shape[2]"}, check == Check::trust);
}

Bsr Bsr::with_values(const TensorView& blocks) const {
  check_values(kBsrCheck, {"blocks", blocks}, 3, device(), nblocks());
  const Argument argument{"blocks", blocks};
  kBsrCheck.extent(argument, 1, block_rows(), "the block's rows");
  kBsrCheck.extent(argument, 2, block_cols(), "the block's columns");
  Bsr result = *this;
  result.blocks_ = blocks;
  return result;
}

}  // namespace gossamer
