#include <algorithm>

#include "base/carver.h"
#include "base/launch.h"
#include "formats/csr/csr_view.h"
#include "formats/csr/kernels/csr_transpose.cuh"

namespace gossamer::cuda {
namespace {

/// The number of blocks of rows: enough to fill a device, but few enough that their counts are
/// small compared with the entries.
std::int64_t row_blocks(const CsrView& a, Columns columns) {
  constexpr std::int64_t kMost = 512, kRows = 8;
  // Where columns may be repeated, a thread block is one warp, so there are more thread blocks.
  const std::int64_t counts = columns == Columns::repeated ? 16 : 4;
  const std::int64_t affordable = counts * a.nnz / std::max<std::int64_t>(a.cols, 1);
  return std::clamp<std::int64_t>(std::min(a.rows / kRows, affordable), 1, kMost);
}

}  // namespace

std::int64_t transpose_workspace(const CsrView& a, Columns columns) {
  Carver carver(nullptr);
  carver.take<int>(row_blocks(a, columns) * a.cols);
  return carver.used();
}

void transpose(const CsrView& a, const CsrTransposed& out, void* workspace, Stream stream,
               Columns columns) {
  const auto run = [&]<class T>(T) {
    const std::int64_t blocks = row_blocks(a, columns);
    const CsrTransposeArgs<T> args{.indptr = a.indptr,
                                   .indices = a.indices,
                                   .values = static_cast<const T*>(a.values),
                                   .rows = static_cast<int>(a.rows),
                                   .cols = static_cast<int>(a.cols),
                                   .block_rows = static_cast<int>(ceil_div(a.rows, blocks)),
                                   .blocks = static_cast<int>(blocks),
                                   .counts = static_cast<int*>(workspace),
                                   .out_indptr = out.indptr,
                                   .out_indices = out.indices,
                                   .out_values = static_cast<T*>(out.values),
                                   .out_permutation = out.permutation};
    const dim3 threads(kTransposeThreads);
    launch(csr_transpose_count<T>, dim3(grid_x(blocks)), threads, 0, stream, args);
    launch(csr_transpose_blocks<T>,
           dim3(grid_x(std::max<std::int64_t>(ceil_div(a.cols, kTransposeThreads), 1))), threads, 0,
           stream, args);
    launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, out.indptr + 1,
           static_cast<int>(a.cols));
    if (columns == Columns::repeated) {
      launch(csr_transpose_place<T>, dim3(grid_x(blocks)), dim3(32), 0, stream, args);
    } else {
      launch(csr_transpose_fill<T>, dim3(grid_x(blocks)), threads, 0, stream, args);
    }
  };
  with_bits_of(a.dtype, run);
}

}  // namespace gossamer::cuda
