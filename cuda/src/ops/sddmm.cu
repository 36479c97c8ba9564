#include "gossamer/check.h"
#include "gossamer/cuda.h"
#include "kernels/sddmm.cuh"
#include "ops/csr_product.h"
#include "ops/launch.h"
#include "runtime.h"

namespace gossamer::cuda {
namespace {

Checker checker() { return Checker("sddmm", DeviceType::cuda); }

template <class T, int V>
void run(SddmmArgs<T> args, Stream stream) {
  while (args.log_group < 5 && (V << args.log_group) < args.depth) ++args.log_group;
  // Neighbouring tiles find their row at once; as long as there are warps for a large device.
  constexpr std::int64_t kWarps = 16384;
  const std::int64_t tiles = ceil_div(args.nnz, 32);
  while (args.tiles < 8 && tiles > 2 * args.tiles * kWarps) args.tiles *= 2;
  constexpr int warps = kSddmmThreads / 32;
  launch(csr_sddmm<T, V>, dim3(grid_x(ceil_div(tiles, warps * args.tiles))), dim3(kSddmmThreads), 0,
         stream, args);
}

}  // namespace

std::int64_t sddmm_workspace(const TensorView&, const TensorView&, const Csr&) { return 0; }

void sddmm(const TensorView& a, const TensorView& b, const Csr& pattern, const TensorView& out,
           bool accumulate, const TensorView& workspace, Stream stream) {
  const Checker check = checker();
  check_sddmm(check, a, b, pattern, out);
  const CsrView view = view_of(check, "pattern", pattern);
  check.workspace(workspace, pattern.device(), 0);
  if (view.nnz == 0) return;
  const DeviceGuard guard(pattern.device());
  with_element_type(a.dtype, [&]<class T>(T) {
    const SddmmArgs<T> args{.indptr = view.indptr,
                            .indices = view.indices,
                            .rows = static_cast<int>(view.rows),
                            .nnz = view.nnz,
                            .a = static_cast<const T*>(a.data),
                            .lda = a.strides[0],
                            .b = static_cast<const T*>(b.data),
                            .ldb = b.strides[0],
                            .depth = a.shape[1],
                            .out = static_cast<T*>(out.data),
                            .accumulate = accumulate,
                            .log_group = 2,
                            .tiles = 1};
    constexpr std::int64_t size = sizeof(T);
    if (aligned(args.a, args.lda, size, 16) && aligned(args.b, args.ldb, size, 16)) {
      run<T, 16 / size>(args, stream);
    } else {
      run<T, 1>(args, stream);
    }
  });
}

}  // namespace gossamer::cuda
