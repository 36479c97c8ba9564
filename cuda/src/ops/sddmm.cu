#include "gossamer/check.h"
#include "gossamer/cuda.h"

namespace gossamer::cuda {

std::int64_t sddmm_workspace(const TensorView& /*a*/, const TensorView& /*b*/,
                             const Csr& /*pattern*/) {
  return 0;
}

void sddmm(const TensorView& a, const TensorView& b, const Csr& pattern, const TensorView& out,
           bool /*accumulate*/, const TensorView& /*workspace*/, Stream /*stream*/) {
  const Checker check("sddmm", DeviceType::cuda);
  check_sddmm(check, a, b, pattern, out);
  check.not_implemented("there is no kernel for a GPU yet");
}

}  // namespace gossamer::cuda
