// spmm and linear for packed matrices.

#include <algorithm>

#include "base/carver.h"
#include "base/launch.h"
#include "base/runtime.h"
#include "formats/packed/packed_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/decoded.h"
#include "products/kernels/pack_product.cuh"
#include "products/kernels/pack_wide.cuh"
#include "products/packed_floats.h"
#include "products/packed_wgmma.h"

namespace gossamer::cuda {
namespace {

/// How products of a type are divided: up to `few` columns, all warps of a thread block share a
/// strip; narrow products have up to `narrow`; `wide` cuts the others, of half precision for a
/// thread block on each multiprocessor, which has room for one.
struct PackedWidths {
  std::int64_t few, narrow;
  DecodedCut wide;
};
constexpr PackedWidths kHalfWidths{
    16, kPackedColumns, {kPackWideRows, kTileCols, kWideColumns, 132}};
constexpr PackedWidths kFloatWidths{8, kNarrowFloatColumns, kFloatCut};

const PackedWidths& widths_of(const PackedTiles& a) {
  return a.dtype() == DType::f32 ? kFloatWidths : kHalfWidths;
}

struct PackedPlan {
  int ways;
  std::int64_t row_blocks, split, splits;
};

/// Depends on sizes alone, so that sums do too.
PackedPlan plan_of(const PackedTiles& a, std::int64_t n) {
  // About three thread blocks for each multiprocessor of a large GPU, and two tiles a warp.
  constexpr std::int64_t kBlocks = 396, kLeastTiles = 2, kMostSplits = 16;
  // For many columns, several strips share what they read of B in the L1 cache.
  const int ways = n <= widths_of(a).few ? kPackedWarps : 2;
  const std::int64_t rows = a.rows(), slices = ceil_div(a.cols(), kTileCols);
  PackedPlan plan{.ways = ways,
                  .row_blocks = ceil_div(ceil_div(rows, kTileRows), kPackedWarps / ways),
                  .split = std::max<std::int64_t>(slices, 1),
                  .splits = 1};
  if (rows == 0) return plan;
  const std::int64_t wanted = std::clamp<std::int64_t>(
      std::min(kBlocks / plan.row_blocks, slices / (kLeastTiles * ways)), 1, kMostSplits);
  plan.split = std::max<std::int64_t>(ceil_div(slices, wanted), 1);
  plan.splits = std::max<std::int64_t>(ceil_div(slices, plan.split), 1);
  return plan;
}

struct Parts {
  void* sums;     // of the splits
  void* columns;  // B's, padded
};

/// `copied`: B cannot be read where it is.
Parts carve(const PackedTiles& a, std::int64_t n, bool copied, Carver& carver) {
  const PackedWidths& widths = widths_of(a);
  std::int64_t most = 0;
  // Parts of a product have fewer columns, and may have more splits.
  const std::int64_t width = std::min(n, widths.narrow);
  for (const std::int64_t columns : {std::min(n, widths.few), width}) {
    const std::int64_t splits = plan_of(a, columns).splits;
    if (splits > 1) most = std::max(most, splits);
  }
  std::int64_t sums = most * a.rows() * width * 4;
  if (n > width) {
    sums = std::max(sums, decoded_workspace(widths.wide, a.rows(), a.cols(), n, a.dtype()));
  }
  const std::int64_t padded = ceil_div(a.cols(), kTileCols) * kTileCols;
  // Wide products of float32 read B where it is.
  const std::int64_t columns = copied && a.dtype() != DType::f32    ? n
                               : copied || deals(a.layout(), width) ? width
                                                                    : 0;
  return {.sums = carver.take_bytes(sums),
          .columns = carver.take_bytes(columns * padded * size_of(a.dtype()))};
}

std::int64_t bytes_of(const PackedTiles& a, std::int64_t n, bool copied) {
  Carver carver(nullptr);
  static_cast<void>(carve(a, n, copied, carver));
  return carver.used();
}

template <class T, TileLayout Layout>
void run(const PackedArgs<T>& args, const PackedPlan& plan, Stream stream) {
  const int width = args.n <= 8 ? 8 : kPackedColumns;
  const dim3 grid(grid_x(plan.row_blocks * ceil_div(args.n, width)),
                  static_cast<unsigned>(plan.splits));
  launch(args.n <= 8 ? pack_product<T, Layout, 1> : pack_product<T, Layout, kPackedColumns / 8>,
         grid, dim3(kPackedThreads), 0, stream, args);
}

/// B by rows, as wide products read it where it is.
bool reads_rows(const PackedTiles& a, const void* data, std::int64_t stride, std::int64_t n) {
  return size_of(a.dtype()) == 2 && n > kPackedColumns && n % 8 == 0 &&
         aligned(data, stride, sizeof(std::uint16_t), 16);
}

template <class T, TileLayout Layout>
void run_wide(const PackedArgs<T>& x, bool along, const detail::Product& product,
              const Parts& parts, Stream stream) {
  const detail::DenseView& out = product.out;
  const DecodedPlan plan = plan_decoded(kHalfWidths.wide, product.m, product.k, product.n);
  const PackWideArgs<T> args{.a = x.a,
                             .b = x.x,
                             .ldb = x.ldx,
                             .k = product.k,
                             .along = along,
                             .to = output_of<T>(product, plan.splits, parts.sums),
                             .down = out.transposed,
                             .row_tiles = static_cast<unsigned>(plan.row_tiles),
                             .split = static_cast<int>(plan.split)};
  const dim3 grid(grid_x(plan.row_tiles * plan.column_tiles), static_cast<unsigned>(plan.splits));
  if (!launch_wgmma<T, Layout>(args, grid, stream)) {
    launch(pack_wide<T, Layout>, grid, dim3(kPackWideThreads), PackWideShared::kBytes, stream,
           args);
  }
  if (plan.splits > 1) join_splits(args.to.partial, plan.splits, product, stream);
}

void multiply(const PackedTiles& a, const detail::Product& product, const Parts& parts,
              Stream stream) {
  if (product.m == 0 || product.n == 0) return;
  const detail::DenseView &b = product.b, &out = product.out;
  const std::int64_t size = size_of(a.dtype()), slices = ceil_div(a.cols(), kTileCols);
  const std::int64_t padded = slices * kTileCols;
  if (size == 4 && product.n > kNarrowFloatColumns) {
    return multiply_wide_floats(a, product, parts.sums, stream);
  }
  const std::int64_t stride = product.n == 1 ? padded : b.stride;
  const bool by_columns = b.transposed || (product.n == 1 && (b.stride == 1 || product.k <= 1));
  const bool rows = !by_columns && reads_rows(a, b.data, b.stride, product.n);
  const bool deal = size == 2 && deals(a.layout(), product.n);
  const bool direct =
      !deal && (rows || (by_columns && product.k == padded && aligned(b.data, stride, size, 16)));
  if (!direct && slices > 0) {
    const auto copy = [&]<class U>(U) {
      const PackColumnArgs<U> columns{.from = static_cast<const U*>(b.data),
                                      .row = by_columns ? 1 : b.stride,
                                      .col = by_columns ? stride : 1,
                                      .k = product.k,
                                      .n = product.n,
                                      .padded = padded,
                                      .deal = deal,
                                      .to = static_cast<U*>(parts.columns)};
      launch(pack_column_tiles<U>,
             dim3(static_cast<unsigned>(slices), grid_y(ceil_div(product.n, kTileCols))),
             dim3(kPackColumnThreads), 0, stream, columns);
    };
    size == 4 ? copy(std::uint32_t{}) : copy(std::uint16_t{});
  }
  const PackedPlan plan = plan_of(a, product.n);
  const auto with_type = [&]<class T>(T) {
    const PackedArgs<T> args{
        .a = view_of<PackedValue<T>>(a),
        .x = static_cast<const T*>(direct ? b.data : parts.columns),
        .ldx = !direct ? padded
               : rows  ? b.stride
                       : stride,
        .n = product.n,
        .out = static_cast<T*>(out.data),
        .out_row = out.transposed ? 1 : out.stride,
        .out_col = out.transposed ? out.stride : 1,
        .finish = Finish<T>(product),
        .partial = plan.splits == 1 ? nullptr : static_cast<float*>(parts.sums),
        .ways = plan.ways,
        .split = static_cast<int>(plan.split),
        .row_blocks = static_cast<unsigned>(plan.row_blocks)};
    if constexpr (std::is_same_v<T, float>) {
      multiply_floats(args, plan.splits, stream);
    } else {
      const auto with_layout = [&]<TileLayout Layout> {
        product.n > kPackedColumns ? run_wide<T, Layout>(args, !rows, product, parts, stream)
                                   : run<T, Layout>(args, plan, stream);
      };
      switch (a.layout()) {
        case TileLayout::bitmap:
          with_layout.template operator()<TileLayout::bitmap>();
          break;
        case TileLayout::lanes:
          with_layout.template operator()<TileLayout::lanes>();
          break;
        case TileLayout::deltas:
          with_layout.template operator()<TileLayout::deltas>();
      }
      if (product.n > kPackedColumns) return;
    }
    if (plan.splits > 1) join_splits(args.partial, plan.splits, product, stream);
  };
  if (size == 4) return with_type(float{});
  a.dtype() == DType::f16 ? with_type(__half{}) : with_type(__nv_bfloat16{});
}

void check_apart(const detail::Checker& check, const PackedTiles& a, const TensorView& out) {
  check.writable({"out", out}, {{"packed.values", a.values()},
                                {"packed.places", a.places()},
                                {"packed.starts", a.starts()},
                                {"packed.indptr", a.indptr()}});
}

bool whole_tiles(const PackedTiles& a) { return a.cols() % kTileCols == 0; }

bool copies(const TensorView& b, const PackedTiles& a) {
  const bool by_columns =
      b.rank == 1 || (b.rank == 2 && b.shape[1] == 1 && (b.strides[0] == 1 || b.shape[0] <= 1));
  if (!by_columns && b.rank == 2 && reads_rows(a, b.data, row_stride(b), b.shape[1])) {
    return false;
  }
  return !(by_columns && whole_tiles(a) && aligned(b.data, 0, 2, 16));
}

bool copies_rows(const TensorView& x, const PackedTiles& w) {
  bool wide = whole_tiles(w) && aligned(x.data, 0, 2, 16);
  for (int d = 0; d + 1 < x.rank; ++d)
    wide = wide && x.strides[static_cast<std::size_t>(d)] % 8 == 0;
  return !wide;
}

std::int64_t tokens_of(const TensorView& x) {
  std::int64_t n = 1;
  for (int d = 0; d + 1 < x.rank; ++d) n *= x.shape[static_cast<std::size_t>(d)];
  return n;
}

}  // namespace

std::optional<std::int64_t> columns_before_dense(const PackedTiles& a) {
  // Of float32, there are as many multiply-adds as a dense product has, whose memory no longer
  // bounds it with more columns than these.
  if (a.dtype() == DType::f32) return 16;
  // By wgmma, tiles of `lanes` are expanded while earlier ones are multiplied: up to this density
  // the product is predicted to take no longer than cuBLAS's.
  const double area = static_cast<double>(a.rows()) * static_cast<double>(a.cols());
  const DeviceGuard guard(a.device());
  if (a.layout() == TileLayout::lanes && static_cast<double>(a.nnz()) <= 0.6 * area &&
      packed_by_wgmma()) {
    return std::nullopt;
  }
  // As many products on tensor cores, by instructions that reach two thirds of Hopper's rate; or
  // by wgmma, which waits for shared memory.
  return 128;
}

std::int64_t spmm_workspace(const PackedTiles& a, const TensorView& b, bool transpose_a) {
  return transpose_a ? 0 : bytes_of(a, b.rank == 2 ? b.shape[1] : 1, copies(b, a));
}

void spmm(const PackedTiles& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream) {
  const detail::Checker check("spmm", DeviceType::cuda);
  if (transpose_a) {
    check.not_implemented(
        "transpose_a is True, expected False for a Packed on a GPU: pack the transpose");
  }
  const detail::Product product =
      detail::check_spmm(check, detail::describe(a), b, out, transpose_a, epilogue);
  check_apart(check, a, out);
  const bool copied = copies(b, a);
  check.workspace(workspace, a.device(), bytes_of(a, product.n, copied));
  const DeviceGuard guard(a.device());
  Carver carver(workspace.data);
  multiply(a, product, carve(a, product.n, copied, carver), stream);
}

std::int64_t linear_workspace(const TensorView& x, const PackedTiles& w) {
  return bytes_of(w, tokens_of(x), copies_rows(x, w));
}

void linear(const TensorView& x, const PackedTiles& w, const TensorView& out,
            const Epilogue& epilogue, const TensorView& workspace, Stream stream) {
  const detail::Checker check("linear", DeviceType::cuda);
  const detail::Product product =
      detail::check_linear(check, x, detail::describe(w), out, epilogue);
  check_apart(check, w, out);
  const bool copied = copies_rows(x, w);
  const std::int64_t tokens = tokens_of(x);
  check.workspace(workspace, w.device(), bytes_of(w, tokens, copied));
  const DeviceGuard guard(w.device());
  Carver carver(workspace.data);
  const Parts parts = carve(w, tokens, copied, carver);
  detail::for_parts(product,
                    [&](const detail::Product& part) { multiply(w, part, parts, stream); });
}

}  // namespace gossamer::cuda
