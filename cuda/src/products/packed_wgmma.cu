// spmm and linear for packed matrices and many columns by wgmma; compiled for 90a alone.

#include <cstdint>
#include <limits>

#include "products/kernels/pack_wgmma.cuh"
#include "products/packed_wgmma.h"
#include "products/wgmma.h"

namespace gossamer::cuda {

bool packed_by_wgmma() { return wgmma_allowed() && has_wgmma(); }

template <class T, TileLayout Layout>
bool launch_wgmma(const PackWideArgs<T>& args, dim3 grid, Stream stream) {
  constexpr std::int64_t kMax = std::numeric_limits<int>::max() - 2 * kWideColumns;
  const std::int64_t n = args.to.n;
  // A tensor map cannot describe rows that overlap or run backwards, nor an empty matrix.
  if (args.k == 0 || args.ldb < (args.along ? args.k : n)) return false;
  if (n > kMax || args.k > kMax || !packed_by_wgmma()) return false;
  const CUtensorMap map = args.along ? map_of_boxes(args.b, n, args.k, args.ldb)
                                     : map_of_boxes(args.b, args.k, n, args.ldb);
  const bool few = n <= kWideColumns / 2;
  launch(args.along ? (few ? pack_wgmma<T, Layout, true, 1> : pack_wgmma<T, Layout, true, 2>)
                    : (few ? pack_wgmma<T, Layout, false, 1> : pack_wgmma<T, Layout, false, 2>),
         grid, dim3(kPackWgmmaThreads), PackWgmmaShared::kBytes, stream, map, args);
  return true;
}

template bool launch_wgmma<__half, TileLayout::bitmap>(const PackWideArgs<__half>&, dim3, Stream);
template bool launch_wgmma<__half, TileLayout::lanes>(const PackWideArgs<__half>&, dim3, Stream);
template bool launch_wgmma<__half, TileLayout::deltas>(const PackWideArgs<__half>&, dim3, Stream);
template bool launch_wgmma<__nv_bfloat16, TileLayout::bitmap>(const PackWideArgs<__nv_bfloat16>&,
                                                              dim3, Stream);
template bool launch_wgmma<__nv_bfloat16, TileLayout::lanes>(const PackWideArgs<__nv_bfloat16>&,
                                                             dim3, Stream);
template bool launch_wgmma<__nv_bfloat16, TileLayout::deltas>(const PackWideArgs<__nv_bfloat16>&,
                                                              dim3, Stream);

}  // namespace gossamer::cuda
