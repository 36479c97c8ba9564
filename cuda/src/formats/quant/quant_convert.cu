#include "base/launch.h"
#include "base/runtime.h"
#include "formats/quant/kernels/quant_dense.cuh"
#include "formats/quant/quant_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/format_checks.h"

namespace gossamer::cuda {

void quant_to_dense(const GroupQuant& a, const TensorView& out, Stream stream) {
  const detail::Checker check("GroupQuant.to_dense", DeviceType::cuda);
  detail::check_quant_to_dense(check, a, out);
  if (out.numel() == 0) return;
  const DeviceGuard guard(a.device());
  with_element_type(a.dtype(), [&]<class T>(T) {
    launch(quant_write_rows<T>, dim3(grid_x(ceil_div(a.rows(), kQuantDenseThreads / 32))),
           dim3(kQuantDenseThreads), 0, stream, rows_of(a), static_cast<T*>(out.data),
           row_stride(out));
  });
}

}  // namespace gossamer::cuda
