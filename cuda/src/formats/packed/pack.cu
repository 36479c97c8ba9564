#include <limits>
#include <string>

#include "base/kernels/scan.cuh"
#include "base/launch.h"
#include "base/runtime.h"
#include "formats/csr/csr_view.h"
#include "formats/packed/kernels/pack_tiles.cuh"
#include "formats/packed/packed_view.h"
#include "gossamer/cuda.h"

namespace gossamer::cuda {
namespace {

/// From an eighth of stored elements on, an eighth of a byte for each element is less than a byte
/// for each entry, by up to 15 % of all bytes; but below a quarter the bitmap's decoding takes
/// longer than the deltas', by 6 % at 20 % (docs/gpu-performance.md). Gaps of 4 bits, with entries
/// of nothing where a gap is wider, would have at most 6 % fewer bytes than the smaller of the two,
/// at 12.5 %.
constexpr double kDense = 0.25;

/// The least density for `lanes`, where a matrix is packed for many columns. Below it, deltas take
/// less than half of the bytes of `lanes`, for products that take a tenth longer.
constexpr double kDenseLanes = 0.0625;

dim3 warps(std::int64_t count) { return dim3(grid_x(ceil_div(count, kPackWarps))); }

std::int64_t mark_bytes(std::int64_t tiles) {
  return tiles * 32 * static_cast<std::int64_t>(sizeof(std::uint32_t));
}

/// Calls f with a value of the type that values are moved as.
template <class F>
void with_value(DType dtype, F&& f) {
  dtype == DType::f32 ? f(float{}) : f(std::uint16_t{});
}

void fill(const std::uint32_t* marks, const void* values, const PackedTiles& to, Stream stream) {
  with_value(to.dtype(), [&]<class V>(V) {
    const PackFillArgs<V> args{.to = view_of<V>(to),
                               .marks = marks,
                               .values = static_cast<const V*>(values),
                               .layout = to.layout()};
    launch(pack_fill_strips<V>, warps(args.to.strips), dim3(kPackThreads), 0, stream, args);
  });
}

/// Which elements are entries, 32 words a tile: those of bitmaps, or of deltas in the workspace.
const std::uint32_t* marks_of(const PackedTiles& a, const TensorView& workspace, Stream stream) {
  if (a.layout() != TileLayout::deltas) return static_cast<const std::uint32_t*>(a.places().data);
  const std::int64_t tiles = tile_count(a.rows(), a.cols());
  auto* const marks = static_cast<std::uint32_t*>(workspace.data);
  fill_zero(marks, mark_bytes(tiles), stream);
  launch(pack_read_deltas, warps(tiles), dim3(kPackThreads), 0, stream,
         PackReadArgs{
             .a = view_of<std::uint16_t>(a), .tiles = static_cast<int>(tiles), .marks = marks});
  return marks;
}

}  // namespace

TileLayout choose_tiles(const Csr& a, const PackOptions& options) {
  const detail::Checker check("pack", DeviceType::cuda);
  check.device({"a.values", a.values()}, a.device(), "a");
  if (options.n.has_value() && *options.n < 1) {
    check.value_error("n is " + std::to_string(*options.n) + ", expected at least 1");
  }
  if (a.dtype() == DType::f64) {
    check.not_implemented("a.dtype is float64, expected float32, float16 or bfloat16 on a GPU");
  }
  require_int(check, "a", a.index_dtype(), a.rows(), a.cols());
  if (tile_count(a.rows(), a.cols()) >= std::numeric_limits<int>::max() / 32) {
    check.not_implemented("a.shape is (" + std::to_string(a.rows()) + ", " +
                          std::to_string(a.cols()) +
                          "), expected less than 2**26 tiles of 16 by 64 on a GPU");
  }
  // Of float32, deltas would have fewer bytes below an eighth of stored elements. But there, what
  // bounds a product is the decoding, which of deltas takes longer (docs/performance.md).
  if (a.dtype() == DType::f32) return TileLayout::bitmap;
  const double area = static_cast<double>(a.rows()) * static_cast<double>(a.cols());
  const auto entries = static_cast<double>(a.nnz());
  if (options.n.value_or(0) > kNarrowColumns && entries >= kDenseLanes * area) {
    return TileLayout::lanes;
  }
  return entries >= kDense * area ? TileLayout::bitmap : TileLayout::deltas;
}

std::int64_t pack_count(const Csr& a, TileLayout layout, const TensorView& marks,
                        const TensorView& starts, Stream stream) {
  const detail::Checker check("pack", DeviceType::cuda);
  const CsrView view = view_of(check, "a", a);
  const std::int64_t tiles = tile_count(a.rows(), a.cols());
  check.shape({"marks", marks}, {tiles * 32});
  check.shape({"starts", starts}, {tiles + 1});
  const DeviceGuard guard(a.device());
  require_waiting(stream, "pack", "the number of values");
  auto* const words = static_cast<std::uint32_t*>(marks.data);
  auto* const counts = static_cast<int*>(starts.data);
  fill_zero(counts, sizeof(int), stream);
  if (tiles == 0) return 0;
  fill_zero(words, mark_bytes(tiles), stream);
  const PackMarkArgs mark{.indptr = view.indptr,
                          .indices = view.indices,
                          .rows = view.rows,
                          .slices = static_cast<int>(ceil_div(view.cols, kTileCols)),
                          .layout = layout,
                          .marks = words};
  launch(a.dtype() == DType::f32 ? pack_mark<float> : pack_mark<std::uint16_t>, warps(view.rows),
         dim3(kPackThreads), 0, stream, mark);
  const PackCountArgs count{
      .marks = words, .tiles = static_cast<int>(tiles), .layout = layout, .units = counts + 1};
  launch(pack_count_units, warps(tiles), dim3(kPackThreads), 0, stream, count);
  launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, counts + 1,
         static_cast<int>(tiles));
  int units = 0;
  copy_to_host(&units, counts + tiles, sizeof(units), stream);
  return units;
}

void pack_fill(const TensorView& marks, const TensorView& values, const PackedTiles& to,
               Stream stream) {
  const DeviceGuard guard(to.device());
  const std::int64_t count = to.values().shape[0];
  if (count == 0) return;
  fill_zero(to.values().data, count * size_of(to.dtype()), stream);
  if (to.layout() == TileLayout::deltas) fill_zero(to.places().data, count, stream);
  fill(static_cast<const std::uint32_t*>(marks.data), values.data, to, stream);
}

std::int64_t packed_update_workspace(const PackedTiles& a) {
  return a.layout() != TileLayout::deltas ? 0 : mark_bytes(tile_count(a.rows(), a.cols()));
}

void packed_update(const PackedTiles& a, const TensorView& values, const TensorView& workspace,
                   Stream stream) {
  const detail::Checker check("Packed.update", DeviceType::cuda);
  const detail::Argument argument{"values", values};
  check.rank(argument, {1});
  check.dtype(argument, a.dtype(), "packed");
  check.device(argument, a.device(), "packed");
  check.extent(argument, 0, a.nnz(), "packed.nnz");
  check.contiguous(argument);
  check.workspace(workspace, a.device(), packed_update_workspace(a));
  if (a.nnz() == 0) return;
  const DeviceGuard guard(a.device());
  fill(marks_of(a, workspace, stream), values.data, a, stream);
}

void packed_to_csr(const PackedTiles& a, const TensorView& indices, const TensorView& values,
                   const TensorView& workspace, Stream stream) {
  const detail::Checker check("pack", DeviceType::cuda);
  check.shape({"indices", indices}, {a.nnz()});
  check.shape({"values", values}, {a.nnz()});
  check.workspace(workspace, a.device(), packed_update_workspace(a));
  if (a.nnz() == 0) return;
  const DeviceGuard guard(a.device());
  const std::uint32_t* const marks = marks_of(a, workspace, stream);
  with_value(a.dtype(), [&]<class V>(V) {
    const PackUnfillArgs<V> args{.from = view_of<V>(a),
                                 .marks = marks,
                                 .layout = a.layout(),
                                 .indices = static_cast<int*>(indices.data),
                                 .values = static_cast<V*>(values.data)};
    launch(pack_unfill_strips<V>, warps(args.from.strips), dim3(kPackThreads), 0, stream, args);
  });
}

void packed_to_dense(const PackedTiles& a, const TensorView& out, Stream stream) {
  const detail::Checker check("Packed.to_dense", DeviceType::cuda);
  const detail::Argument argument{"out", out};
  check.dtype(argument, a.dtype(), "a");
  check.rank(argument, {2});
  check.extent(argument, 0, a.rows(), "a.shape[0]");
  check.extent(argument, 1, a.cols(), "a.shape[1]");
  check.device(argument, a.device(), "a");
  check.layout(argument);
  check.writable(argument, {{"a.values", a.values()},
                            {"a.places", a.places()},
                            {"a.starts", a.starts()},
                            {"a.indptr", a.indptr()}});
  const std::int64_t tiles = tile_count(a.rows(), a.cols());
  if (tiles == 0) return;
  const DeviceGuard guard(a.device());
  with_value(a.dtype(), [&]<class V>(V) {
    launch(pack_to_dense_tiles<V>, warps(tiles), dim3(kPackThreads), 0, stream,
           PackDenseArgs<V>{.a = view_of<V>(a),
                            .layout = a.layout(),
                            .tiles = static_cast<int>(tiles),
                            .cols = a.cols(),
                            .out = static_cast<V*>(out.data),
                            .ldo = row_stride(out)});
  });
}

}  // namespace gossamer::cuda
