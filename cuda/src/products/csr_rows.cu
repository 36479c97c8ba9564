#include <algorithm>

#include "base/launch.h"
#include "products/csr_product.h"
#include "products/kernels/csr_rows.cuh"

namespace gossamer::cuda {
namespace {

/// Rows are cut only if they are longer than this and than eight times the mean length.
constexpr std::int64_t kMinCut = 1024;

template <class T, int V, int U>
void run(const CsrView& a, CsrRowsArgs<T> args, std::int64_t sets, Stream stream) {
  // Gives lanes to columns first, then to entries, while a row has four entries for each.
  const std::int64_t vectors = ceil_div(args.n, V * U), mean = a.nnz / (a.rows * args.sets.stacks);
  while (args.log_columns < 5 && (1 << args.log_columns) < vectors) ++args.log_columns;
  args.log_row = args.log_columns;
  while (args.log_row < 5 && (kQuad << (args.log_row - args.log_columns)) < mean) {
    ++args.log_row;
  }
  args.row_blocks = grid_x(ceil_div(a.rows, kRowsWarps << (5 - args.log_row)));
  const std::int64_t tile = static_cast<std::int64_t>(V * U) << args.log_columns;
  // As many columns and sets at once as a grid has thread blocks for.
  constexpr std::int64_t kMost = 65535;
  const std::int64_t n = args.n;
  for (std::int64_t first = 0; first < n; first += kMost * tile) {
    CsrRowsArgs<T> part = args;
    part.n = std::min(kMost * tile, n - first);
    part.b += first;
    part.out += first;
    if (part.sums != nullptr) part.sums += first;
    for (std::int64_t set = 0; set < sets; set += kMost) {
      part.sets.first = static_cast<unsigned>(set);
      const unsigned z = grid_x(std::min(kMost, sets - set));
      const dim3 grid(args.row_blocks + grid_x(ceil_div(2 * std::int64_t{args.chunks}, kRowsWarps)),
                      grid_x(ceil_div(part.n, tile)), z);
      launch(csr_rows<T, V, U>, grid, dim3(kRowsThreads), 0, stream, part);
      if (args.chunks > 0) {
        launch(csr_rows_join<T>, dim3(args.chunks, grid_y(ceil_div(part.n, 32)), z), dim3(32), 0,
               stream, part);
      }
    }
  }
}

}  // namespace

std::int64_t row_cut(const CsrView& a, std::int64_t stacks) {
  const std::int64_t rows = std::max<std::int64_t>(a.rows * stacks, 1);
  const std::int64_t cut = std::max(kMinCut, 8 * (a.nnz / rows));
  return std::min(a.cols, a.nnz) > cut ? cut : 0;
}

std::int64_t partial_sums(const CsrView& a, std::int64_t stacks) {
  const std::int64_t cut = row_cut(a, stacks);
  return cut == 0 ? 0 : 2 * ceil_div(a.nnz, cut);
}

void multiply_rows(const CsrView& a, const detail::Product& product, void* sums,
                   std::int64_t ld_sums, void* partial, Stream stream, const RowSets* sets) {
  with_element_type(a.dtype, [&]<class T>(T) {
    using S = Sum<T>;
    const std::int64_t cut = row_cut(a, sets != nullptr ? sets->sets.stacks : 1);
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
                              .cut = cut,
                              .partial = static_cast<S*>(partial),
                              .chunks = cut == 0 ? 0 : grid_x(ceil_div(a.nnz, cut)),
                              .sets = sets != nullptr ? sets->sets : Sets{},
                              .b_steps = sets != nullptr ? sets->b : SetSteps{},
                              .out_steps = sets != nullptr ? sets->out : SetSteps{}};
    const std::int64_t count = sets != nullptr ? sets->count : 1;
    constexpr std::int64_t size = sizeof(T);
    const auto fits = [&](std::int64_t bytes) {
      const auto steps = [&](const SetSteps& s) {
        return aligned(nullptr, s.outer, size, bytes) && aligned(nullptr, s.step, size, bytes);
      };
      return product.n * size % bytes == 0 && aligned(args.b, args.ldb, size, bytes) &&
             (sums != nullptr || aligned(args.out, args.ldo, size, bytes)) && steps(args.b_steps) &&
             steps(args.out_steps);
    };
    if (fits(16)) {
      run<T, 16 / size, 1>(a, args, count, stream);
    } else if (size < 4 && fits(4)) {
      if constexpr (size < 4) run<T, 2, 4>(a, args, count, stream);
    } else {
      run<T, 1, 4>(a, args, count, stream);
    }
  });
}

}  // namespace gossamer::cuda
