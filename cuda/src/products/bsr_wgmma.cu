// spmm and linear for large blocks by wgmma; compiled for 90a alone.

#include <cstdint>
#include <limits>

#include "base/launch.h"
#include "products/bsr_wgmma.h"
#include "products/kernels/bsr_spmm_wgmma.cuh"
#include "products/wgmma.h"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<int>::max() - 2 * WgmmaTile::kColumns;
constexpr std::int64_t kFewColumns = 64;

/// Two warpgroups bring fewer bytes for a product than one, but make half as many tiles, of which
/// the device should have two for each multiprocessor.
WgmmaTile tile_of(const BsrView& a, const detail::Product& product) {
  const auto tiles = [&](WgmmaTile tile) {
    return product.m / tile.rows() * ceil_div(product.n, tile.columns());
  };
  int device = 0, processors = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  const WgmmaTile two = a.block_rows % 128 == 0 ? WgmmaTile{2, 1} : WgmmaTile{1, 2};
  return tiles(two) >= 2 * processors ? two : WgmmaTile{1, 1};
}

template <class T, BsrLayout Layout>
void run(const BsrView& a, const int* order, const detail::Product& product, Stream stream) {
  constexpr bool kTransposed = Layout == BsrLayout::transposed;
  constexpr bool kByColumns = Layout == BsrLayout::columns;
  const detail::DenseView& b = product.b;
  const WgmmaTile tile = tile_of(a, product);
  const int height = kTransposed ? a.block_cols : a.block_rows;  // of a block in memory
  const int width = kTransposed ? a.block_rows : a.block_cols;
  const CUtensorMap map_a = map_of_boxes(a.blocks, a.nblocks * height, width, width);
  const CUtensorMap map_b = kByColumns ? map_of_boxes(b.data, product.n, product.k, b.stride)
                                       : map_of_boxes(b.data, product.k, product.n, b.stride);
  const BsrWgmmaArgs<T> args{.indptr = a.indptr,
                             .indices = a.indices,
                             .order = order,
                             .block_rows = a.block_rows,
                             .block_cols = a.block_cols,
                             .tile = tile,
                             .row_tiles = static_cast<unsigned>(product.m / tile.rows()),
                             .to = output_of<T>(product, 1, nullptr)};
  const std::int64_t tiles = ceil_div(product.n, tile.columns()) * args.row_tiles;
  launch(bsr_spmm_wgmma<T, Layout>, dim3(grid_x(tiles)),
         dim3(static_cast<unsigned>(tile.threads())), static_cast<std::size_t>(tile.shared()),
         stream, map_a, map_b, args);
}

template <class T>
void run(const BsrView& a, const int* order, bool transposed, const detail::Product& product,
         Stream stream) {
  if (transposed) {
    run<T, BsrLayout::transposed>(a, order, product, stream);
  } else if (product.b.transposed) {
    run<T, BsrLayout::columns>(a, order, product, stream);
  } else {
    run<T, BsrLayout::rows>(a, order, product, stream);
  }
}

}  // namespace

bool multiply_wgmma(const BsrView& a, const int* order, bool transposed,
                    const detail::Product& product, Stream stream) {
  constexpr int kSide = kWgmmaSide;
  if (size_of(a.dtype) != 2 || a.block_rows % kSide != 0 || a.block_cols % kSide != 0) return false;
  if (product.n < kFewColumns || a.nblocks == 0 || !wgmma_allowed()) return false;
  if (transposed && product.b.transposed) return false;
  // A tensor map cannot describe rows that overlap or run backwards.
  if (product.b.stride < (product.b.transposed ? product.k : product.n)) return false;
  const std::int64_t extents[] = {product.n, product.k, product.m,
                                  a.nblocks * (transposed ? a.block_cols : a.block_rows),
                                  ceil_div(product.n, WgmmaTile::kColumns) * (product.m / kSide)};
  for (const std::int64_t extent : extents) {
    if (extent > kMax) return false;
  }
  if (!aligned(a.blocks, 0, 2, 16) || !aligned(product.b.data, product.b.stride, 2, 16)) {
    return false;
  }
  if (!has_wgmma()) return false;
  with_element_type(a.dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) == 2) run<T>(a, order, transposed, product, stream);
  });
  return true;
}

}  // namespace gossamer::cuda
