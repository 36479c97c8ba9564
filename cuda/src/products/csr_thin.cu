#include <algorithm>

#include "base/launch.h"
#include "products/csr_product.h"
#include "products/kernels/csr_thin.cuh"

namespace gossamer::cuda {
namespace {

template <class T, int N>
void run(const CsrView& a, const CsrThinArgs<T>& args, Stream stream) {
  const dim3 grid(grid_x(ceil_div(a.rows, kThinThreads >> args.log_threads)),
                  grid_y(ceil_div(args.n, N)));
  launch(csr_thin<T, N>, grid, dim3(kThinThreads), 0, stream, args);
}

}  // namespace

void multiply_thin(const CsrView& a, const detail::Product& product, Stream stream) {
  with_element_type(a.dtype, [&]<class T>(T) {
    // Eight entries a thread: four in flight and four that follow.
    const std::int64_t mean = a.nnz / a.rows;
    int log_threads = kThinMinLog;
    while (log_threads < kThinMaxLog && (8 << log_threads) < mean) ++log_threads;
    const std::int64_t cut = std::max<std::int64_t>(64 << log_threads, 8 * mean);
    const bool long_rows = std::min(a.cols, a.nnz) > cut && log_threads < kThinMaxLog;
    const detail::DenseView &b = product.b, &out = product.out;
    CsrThinArgs<T> args{.indptr = a.indptr,
                        .indices = a.indices,
                        .values = static_cast<const T*>(a.values),
                        .rows = static_cast<int>(a.rows),
                        .x = static_cast<const T*>(b.data),
                        .stride_k = b.transposed ? 1 : b.stride,
                        .stride_n = b.transposed ? b.stride : 1,
                        .n = product.n,
                        .out = static_cast<T*>(out.data),
                        .out_m = out.transposed ? 1 : out.stride,
                        .out_n = out.transposed ? out.stride : 1,
                        .finish = Finish<T>(product),
                        .log_threads = log_threads,
                        .cut = long_rows ? static_cast<unsigned>(cut) : 0};
    if (product.n == 1) return run<T, 1>(a, args, stream);
    if (product.n <= 4) return run<T, 4>(a, args, stream);
    // As many columns at once as a grid has thread blocks for.
    constexpr std::int64_t kMost = 65535 * 8;
    for (std::int64_t first = 0; first < product.n; first += kMost) {
      args.n = std::min(kMost, product.n - first);
      run<T, 8>(a, args, stream);
      args.x += args.n * args.stride_n;
      args.out += args.n * args.out_n;
    }
  });
}

}  // namespace gossamer::cuda
