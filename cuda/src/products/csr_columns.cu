#include <algorithm>

#include "base/kernels/tile_transpose.cuh"
#include "base/launch.h"
#include "products/csr_product.h"

// Products with a B that is stored by columns, as linear's activations are. Panels of columns are
// transposed before the product and their sums after it, so that the product itself reads and
// writes rows.

namespace gossamer::cuda {
namespace {

/// Columns of a panel: for a layer of 11008 rows its sums have 45 MB, which about fills L2.
constexpr std::int64_t kPanel = 1024;

/// The number of columns of a panel, padded to whole vectors of every type.
std::int64_t padded(std::int64_t n) { return ceil_div(std::min(n, kPanel), 8) * 8; }

struct Parts {
  void* b;
  void* sums;
  void* partial;
};

Parts carve(const CsrView& a, std::int64_t n, Carver& carver) {
  const std::int64_t ld = padded(n), sum = sum_size(a.dtype);
  return {.b = carver.take_bytes(a.cols * ld * size_of(a.dtype)),
          .sums = carver.take_bytes(a.rows * ld * sum),
          .partial = carver.take_bytes(partial_sums(a) * ld * sum)};
}

template <class T>
void run(const CsrView& a, const detail::Product& product, void* workspace, Stream stream) {
  Carver carver(workspace);
  const Parts parts = carve(a, product.n, carver);
  for (std::int64_t first = 0; first < product.n; first += kPanel) {
    const std::int64_t n = std::min(kPanel, product.n - first), ld = padded(n);
    const dim3 block(kTileThreads);
    constexpr std::int64_t side = kTileSide;
    launch(
        pack_columns<T>, dim3(grid_x(ceil_div(product.k, side)), grid_y(ceil_div(ld, side))), block,
        0, stream,
        PackColumnsArgs<T>{.from = static_cast<const T*>(product.b.data) + first * product.b.stride,
                           .stride = product.b.stride,
                           .n = n,
                           .k = product.k,
                           .to = static_cast<T*>(parts.b),
                           .ld = ld,
                           .padded = ld});
    detail::Product rows = product;
    rows.b = {parts.b, a.dtype, ld, false};
    rows.n = ld;
    multiply_rows(a, rows, parts.sums, ld, parts.partial, stream);
    launch(
        unpack_columns<T>, dim3(grid_x(ceil_div(n, side)), grid_y(ceil_div(product.m, side))),
        block, 0, stream,
        UnpackColumnsArgs<T>{.sums = static_cast<const Sum<T>*>(parts.sums),
                             .ld = ld,
                             .m = product.m,
                             .n = n,
                             .out = static_cast<T*>(product.out.data) + first * product.out.stride,
                             .stride = product.out.stride,
                             .finish = Finish<T>(product)});
  }
}

}  // namespace

std::int64_t multiply_columns_workspace(const CsrView& a, std::int64_t n) {
  Carver carver(nullptr);
  static_cast<void>(carve(a, n, carver));
  return carver.used();
}

void multiply_columns(const CsrView& a, const detail::Product& product, void* workspace,
                      Stream stream) {
  with_element_type(a.dtype, [&]<class T>(T) { run<T>(a, product, workspace, stream); });
}

}  // namespace gossamer::cuda
