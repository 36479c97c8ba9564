#include "gossamer/error.h"
#include "gossamer/ops.h"

namespace gossamer {

void sddmm(const TensorView&, const TensorView&, const Csr&, const TensorView&, bool) {
  throw NotImplementedError("sddmm");
}

}  // namespace gossamer
