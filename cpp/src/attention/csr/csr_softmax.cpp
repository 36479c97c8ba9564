#include <cstddef>

#include "attention/csr/kernels.h"
#include "attention/csr/sets.h"
#include "base/floats.h"
#include "gossamer/csr_attention.h"
#include "gossamer/detail/check.h"

namespace gossamer {
using namespace detail;
namespace {

/// Throws unless `out` has the shape and the type of `x`, a set of the pattern's values, is
/// contiguous and apart from what is read.
void check_out(const Checker& check, const CsrPattern& pattern, const Argument& x,
               const Argument& out) {
  check.dtype(out, x.view.dtype, x.name);
  check.device(out, pattern.device(), "a");
  check.same_shape(out, x);
  check.contiguous(out);
  check.writable(out, {x, {"a.indices", pattern.indices()}, {"a.indptr", pattern.indptr()}});
}

}  // namespace

void csr_softmax(const CsrPattern& pattern, const TensorView& x, const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("csr_softmax");
  pattern.check_values(x);
  check.device({"a.values", x}, x.device, "a");
  check_out(check, pattern, {"a.values", x}, {"out", out});
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
  const Checker check("csr_softmax_backward");
  pattern.check_values(y);
  check.device({"p.values", y}, y.device, "p");
  check.dtype({"grad", dy}, y.dtype, "p");
  check.device({"grad", dy}, pattern.device(), "p");
  check.same_shape({"grad", dy}, {"p.values", y});
  check.contiguous({"grad", dy});
  check_out(check, pattern, {"p.values", y}, {"out", dx});
  check.writable({"out", dx}, {{"grad", dy}});
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
