#include <cstddef>

#include "attention/csr/kernels.h"
#include "attention/csr/sets.h"
#include "base/floats.h"
#include "gossamer/csr_attention.h"
#include "gossamer/detail/csr_attention_checks.h"

namespace gossamer {
using namespace detail;

void csr_softmax(const CsrPattern& pattern, const TensorView& x, const TensorView& out) {
  const FloatEnvironment floats;
  check_csr_softmax(Checker("csr_softmax"), pattern, x, out);
  for_sets(pattern, x, 4.0, [&](std::int64_t set, std::int64_t row0, std::int64_t row1) {
    csr_attention_kernels().csr_softmax({.wide = pattern.index_dtype() == DType::i64,
                                         .indptr = pattern.indptr().data,
                                         .row0 = row0,
                                         .row1 = row1,
                                         .type = x.dtype,
                                         .x = element(x, set * pattern.nnz()),
                                         .out = element(out, set * pattern.nnz())});
  });
}

void csr_softmax_backward(const CsrPattern& pattern, const TensorView& y, const TensorView& dy,
                          const TensorView& dx) {
  const FloatEnvironment floats;
  check_csr_softmax_backward(Checker("csr_softmax_backward"), pattern, y, dy, dx);
  for_sets(pattern, y, 2.0, [&](std::int64_t set, std::int64_t row0, std::int64_t row1) {
    csr_attention_kernels().csr_softmax_backward({.wide = pattern.index_dtype() == DType::i64,
                                                  .indptr = pattern.indptr().data,
                                                  .row0 = row0,
                                                  .row1 = row1,
                                                  .type = y.dtype,
                                                  .y = element(y, set * pattern.nnz()),
                                                  .g = element(dy, set * pattern.nnz()),
                                                  .out = element(dx, set * pattern.nnz())});
  });
}

}  // namespace gossamer
