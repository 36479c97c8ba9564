#pragma once

// BSR matrices that have been checked.

#include <cstdint>

#include "formats/csr/csr_view.h"
#include "gossamer/bsr.h"
#include "gossamer/detail/check.h"

namespace gossamer::cuda {

/// A BSR matrix on the current device, in rows and columns of blocks.
struct BsrView {
  const int* indptr;
  const int* indices;
  const void* blocks;
  DType dtype;
  std::int64_t rows, cols, nblocks;
  int block_rows, block_cols;

  /// The pattern of its blocks: a CSR matrix without values.
  [[nodiscard]] CsrView pattern() const noexcept {
    return {.indptr = indptr,
            .indices = indices,
            .values = nullptr,
            .dtype = dtype,
            .rows = rows,
            .cols = cols,
            .nnz = nblocks};
  }
};

/// Throws what require_int does.
[[nodiscard]] BsrView view_of(const detail::Checker& check, const char* name, const Bsr& a);

}  // namespace gossamer::cuda
