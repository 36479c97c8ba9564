#include <algorithm>

#include "base/launch.h"
#include "products/csr_product.h"
#include "products/kernels/csr_rows.cuh"

namespace gossamer::cuda {
namespace {

/// Rows are cut only if they are longer than this and than eight times the mean length.
constexpr std::int64_t kMinCut = 1024;

template <class T, int V, int U>
void run(const CsrView& a, CsrRowsArgs<T> args, Stream stream) {
  // Gives lanes to columns first, then to entries, while a row has four entries for each.
  const std::int64_t vectors = ceil_div(args.n, V * U), mean = a.nnz / a.rows;
  while (args.log_columns < 5 && (1 << args.log_columns) < vectors) ++args.log_columns;
  args.log_row = args.log_columns;
  while (args.log_row < 5 && (kQuad << (args.log_row - args.log_columns)) < mean) {
    ++args.log_row;
  }
  const std::int64_t chunks = args.cut == 0 ? 0 : ceil_div(a.nnz, args.cut);
  args.row_blocks = grid_x(ceil_div(a.rows, kRowsWarps << (5 - args.log_row)));
  const std::int64_t tile = static_cast<std::int64_t>(V * U) << args.log_columns;
  const std::int64_t tiles = ceil_div(args.n, tile), y = std::min<std::int64_t>(tiles, 32768);
  const dim3 grid(args.row_blocks + grid_x(ceil_div(2 * chunks, kRowsWarps)), grid_x(y),
                  grid_x(ceil_div(tiles, y)));
  launch(csr_rows<T, V, U>, grid, dim3(kRowsThreads), 0, stream, args);
  if (chunks > 0) {
    launch(csr_rows_join<T>, dim3(grid_x(chunks), grid_y(ceil_div(args.n, 32))), dim3(32), 0,
           stream, args);
  }
}

}  // namespace

std::int64_t row_cut(const CsrView& a) {
  const std::int64_t cut = std::max(kMinCut, 8 * (a.nnz / std::max<std::int64_t>(a.rows, 1)));
  return std::min(a.cols, a.nnz) > cut ? cut : 0;
}

std::int64_t partial_sums(const CsrView& a) {
  const std::int64_t cut = row_cut(a);
  return cut == 0 ? 0 : 2 * ceil_div(a.nnz, cut);
}

void multiply_rows(const CsrView& a, const detail::Product& product, void* sums,
                   std::int64_t ld_sums, void* partial, Stream stream) {
  with_element_type(a.dtype, [&]<class T>(T) {
    using S = Sum<T>;
    const CsrRowsArgs<T> args{.indptr = a.indptr,
                              .indices = a.indices,
                              .values = static_cast<const T*>(a.values),
                              .rows = static_cast<int>(a.rows),
                              .b = static_cast<const T*>(product.b.data),
                              .ldb = product.b.stride,
                              .n = product.n,
                              .out = static_cast<T*>(product.out.data),
                              .ldo = product.out.stride,
                              .finish = Finish<T>(product),
                              .sums = static_cast<S*>(sums),
                              .ld_sums = ld_sums,
                              .log_columns = 0,
                              .log_row = 0,
                              .row_blocks = 0,
                              .cut = row_cut(a),
                              .partial = static_cast<S*>(partial)};
    constexpr std::int64_t size = sizeof(T);
    const auto fits = [&](std::int64_t bytes) {
      return product.n * size % bytes == 0 && aligned(args.b, args.ldb, size, bytes) &&
             (sums != nullptr || aligned(args.out, args.ldo, size, bytes));
    };
    if (fits(16)) {
      run<T, 16 / size, 1>(a, args, stream);
    } else if (size < 4 && fits(4)) {
      if constexpr (size < 4) run<T, 2, 4>(a, args, stream);
    } else {
      run<T, 1, 4>(a, args, stream);
    }
  });
}

}  // namespace gossamer::cuda
