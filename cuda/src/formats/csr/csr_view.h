#pragma once

// CSR matrices that have been checked, as launches take them, and their transposes.

#include <cstdint>

#include "gossamer/csr.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/check.h"

namespace gossamer::cuda {

/// A CSR matrix on the current device.
struct CsrView {
  const int* indptr;
  const int* indices;
  const void* values;
  DType dtype;
  std::int64_t rows, cols, nnz;
};

/// Throws NotImplementedError if a matrix's indices or sizes do not fit an int.
void require_int(const detail::Checker& check, const char* name, DType index, std::int64_t rows,
                 std::int64_t cols);

/// The same for the dense matrix `w` whose entries a sparse one with this indptr gets.
void require_int(const detail::Checker& check, const TensorView& w, const TensorView& indptr);

/// Throws what require_int does.
[[nodiscard]] CsrView view_of(const detail::Checker& check, const char* name, const Csr& a);

/// The same for a pattern, without values.
[[nodiscard]] CsrView pattern_of(const detail::Checker& check, const char* name,
                                 const CsrPattern& a);

/// Results of a transpose; `values` and `permutation` may be null.
struct CsrTransposed {
  int* indptr;
  int* indices;
  void* values;
  int* permutation;
};
/// Whether rows may have a column several times; such entries keep their order.
enum class Columns : bool { distinct, repeated };
void transpose(const CsrView& a, const CsrTransposed& out, void* workspace, Stream stream,
               Columns columns = Columns::distinct);
[[nodiscard]] std::int64_t transpose_workspace(const CsrView& a,
                                               Columns columns = Columns::distinct);

}  // namespace gossamer::cuda
