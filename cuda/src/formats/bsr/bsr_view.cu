#include "formats/bsr/bsr_view.h"

namespace gossamer::cuda {

BsrView view_of(const detail::Checker& check, const char* name, const Bsr& a) {
  require_int(check, name, a.index_dtype(), a.rows(), a.cols());
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
