#include <limits>
#include <string>

#include "ops/bsr_view.h"

namespace gossamer::cuda {

BsrView view_of(const Checker& check, const char* name, const Bsr& a) {
  if (a.index_dtype() != DType::i32) {
    check.not_implemented(std::string(name) + ".index_dtype is int64, expected int32 on a GPU");
  }
  constexpr std::int64_t kMax = std::numeric_limits<int>::max();
  if (a.rows() >= kMax || a.cols() >= kMax) {
    check.not_implemented(std::string(name) + ".shape is (" + std::to_string(a.rows()) + ", " +
                          std::to_string(a.cols()) + "), expected less than 2**31 - 1 on a GPU");
  }
  return {.indptr = static_cast<const int*>(a.indptr().data),
          .indices = static_cast<const int*>(a.indices().data),
          .blocks = a.blocks().data,
          .dtype = a.dtype(),
          .rows = a.rows() / a.block_rows(),
          .cols = a.cols() / a.block_cols(),
          .nblocks = a.nblocks(),
          .block_rows = static_cast<int>(a.block_rows()),
          .block_cols = static_cast<int>(a.block_cols())};
}

}  // namespace gossamer::cuda
