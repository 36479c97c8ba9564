#pragma once

// How products by decoded tiles are divided among thread blocks.

#include <algorithm>
#include <cstdint>

#include "base/launch.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/kernels/decoded.cuh"

namespace gossamer::cuda {

/// What a tile of C and a slice hold of an A [m, k] and a B [k, n].
struct DecodedCut {
  int rows;   // of a tile
  int depth;  // of a slice
  int columns = kDecodedSide;
  std::int64_t blocks = 264;  // wanted: about two for each multiprocessor of a large GPU
};

struct DecodedPlan {
  std::int64_t row_tiles, column_tiles, slices, split, splits;
};

/// Depends on sizes alone, so that sums do too.
inline DecodedPlan plan_decoded(const DecodedCut& cut, std::int64_t m, std::int64_t k,
                                std::int64_t n) {
  // A few slices for each thread block.
  constexpr std::int64_t kLeastSlices = 4, kMostSplits = 16;
  DecodedPlan plan{.row_tiles = ceil_div(m, cut.rows),
                   .column_tiles = ceil_div(n, cut.columns),
                   .slices = ceil_div(k, cut.depth),
                   .split = 0,
                   .splits = 1};
  const std::int64_t tiles = std::max<std::int64_t>(plan.row_tiles * plan.column_tiles, 1);
  const std::int64_t wanted = std::clamp<std::int64_t>(
      std::min(cut.blocks / tiles, plan.slices / kLeastSlices), 1, kMostSplits);
  plan.split = std::max<std::int64_t>(ceil_div(plan.slices, wanted), 1);
  plan.splits = std::max<std::int64_t>(ceil_div(plan.slices, plan.split), 1);
  return plan;
}

/// Bytes of the sums of the splits, for up to n columns: of fewer, more splits may be made.
inline std::int64_t decoded_workspace(const DecodedCut& cut, std::int64_t m, std::int64_t k,
                                      std::int64_t n, DType dtype) {
  std::int64_t most = 0;
  for (std::int64_t columns = cut.columns;; columns += cut.columns) {
    const std::int64_t splits = plan_decoded(cut, m, k, columns).splits;
    if (splits > 1) most = std::max(most, splits * m * std::min(columns, n));
    if (splits == 1 || columns >= n) break;
  }
  return most * (dtype == DType::f64 ? 8 : 4);
}

/// out = epilogue(the sums [splits, m, n], added in order), which are of the type of its sums.
void join_splits(const void* partial, std::int64_t splits, const detail::Product& product,
                 Stream stream);

/// E is the type of the tiles.
template <class T, class E, class Decoder>
void multiply_decoded(const Decoder& decoder, const DecodedCut& cut, const detail::Product& product,
                      void* workspace, Stream stream) {
  const detail::DenseView &b = product.b, &out = product.out;
  constexpr std::int64_t size = sizeof(T);
  const DecodedPlan plan = plan_decoded(cut, product.m, product.k, product.n);
  // The stride of a single column is not used, so it must not affect the alignment.
  const std::int64_t stride = b.transposed && product.n == 1 ? 0 : b.stride;
  const std::int64_t length = b.transposed ? product.k : product.n;
  const DecodedArgs<T, Decoder> args{
      .a = decoder,
      .m = product.m,
      .k = product.k,
      .n = product.n,
      .b = static_cast<const T*>(b.data),
      .b_row = b.transposed ? 1 : b.stride,
      .b_col = !b.transposed    ? 1
               : product.n == 1 ? product.k
                                : b.stride,
      .out = static_cast<T*>(out.data),
      .out_row = out.transposed ? 1 : out.stride,
      .out_col = out.transposed ? out.stride : 1,
      .finish = Finish<T>(product),
      .partial = plan.splits == 1 ? nullptr : static_cast<Sum<T>*>(workspace),
      .rows = cut.rows,
      .depth = cut.depth,
      .row_tiles = static_cast<unsigned>(plan.row_tiles),
      .slices = static_cast<int>(plan.slices),
      .split = static_cast<int>(plan.split),
      .wide = aligned(b.data, stride, size, 16) && length % 8 == 0 && cut.depth % 8 == 0};
  const dim3 grid(grid_x(plan.row_tiles * plan.column_tiles), static_cast<unsigned>(plan.splits));
  launch(decoded_product<T, E, Decoder>, grid, dim3(kDecodedThreads), 0, stream, args);
  if (plan.splits == 1) return;
  join_splits(args.partial, plan.splits, product, stream);
}

}  // namespace gossamer::cuda
