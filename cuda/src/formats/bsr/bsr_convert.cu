#include <algorithm>

#include "base/launch.h"
#include "base/runtime.h"
#include "formats/bsr/bsr_view.h"
#include "formats/bsr/kernels/bsr_blocks.cuh"
#include "formats/csr/csr_marks.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/format_checks.h"

namespace gossamer::cuda {
namespace {

/// How many bytes a thread block writes in one step: a few stores by each thread.
constexpr std::int64_t kPieceBytes = 32 * 1024;

/// Calls f with a unit of this many bytes.
template <class F>
void with_unit(int bytes, F&& f) {
  switch (bytes) {
    case 1:
      return f(std::uint8_t{});
    case 2:
      return f(std::uint16_t{});
    case 4:
      return f(std::uint32_t{});
    case 8:
      return f(std::uint64_t{});
    default:
      return f(Unit16{});
  }
}

/// How many matrix blocks a thread block handles in one step.
int blocks_at_once(std::int64_t block_bytes) {
  return static_cast<int>(std::clamp<std::int64_t>(kPieceBytes / block_bytes, 1, kBlockTile));
}

/// As many threads side by side as there are `units`, the others on further rows.
dim3 block_threads(std::int64_t units) {
  int across = 1;
  while (across < kBlockThreads && across < units) across *= 2;
  return {static_cast<unsigned>(across), static_cast<unsigned>(kBlockThreads / across)};
}

/// A mask of all bits but the signs of elements of this type.
std::uint64_t without_signs(DType dtype) {
  switch (size_of(dtype)) {
    case 2:
      return 0x7fff7fff7fff7fffULL;
    case 4:
      return 0x7fffffff7fffffffULL;
    default:
      return 0x7fffffffffffffffULL;
  }
}

detail::Checker from_dense() { return detail::Checker("BSR.from_dense", DeviceType::cuda); }

/// Checks `kept`, which says for each block of `w` whether it is kept.
Marks marks_of(const detail::Checker& check, const TensorView& w, std::int64_t block_rows,
               std::int64_t block_cols, const TensorView& indptr, const TensorView& kept) {
  require_int(check, w, indptr);
  const std::int64_t rows = w.shape[0] / block_rows, cols = w.shape[1] / block_cols;
  check.dtype({"kept", kept}, DType::boolean, "a mask");
  check.shape({"kept", kept}, {rows, cols});
  check.device({"kept", kept}, w.device, "w");
  check.contiguous({"kept", kept});
  return {.data = static_cast<std::uint8_t*>(kept.data),
          .rows = static_cast<int>(rows),
          .cols = static_cast<int>(cols)};
}

void find(const TensorView& source, std::uint64_t keep, std::int64_t block_rows,
          std::int64_t block_cols, const Marks& marks, Stream stream) {
  const std::int64_t size = size_of(source.dtype), stride = row_stride(source);
  const int bytes = access_bytes(source.data, stride, block_cols, size);
  const std::int64_t width = block_cols * size / bytes;
  const std::int64_t tile = std::max<std::int64_t>(kFindColumns / width, 1);
  const BsrFindArgs args{.source = source.data,
                         .stride = stride * size / bytes,
                         .keep = keep,
                         .block_rows = static_cast<int>(block_rows),
                         .width = static_cast<int>(width),
                         .across = marks.cols,
                         .tile = static_cast<int>(tile),
                         .kept = marks.data};
  with_unit(bytes, [&]<class U>(U) {
    launch(bsr_find<U>, dim3(grid_x(marks.rows), grid_y(ceil_div(marks.cols, tile))),
           dim3(kFindThreads), 0, stream, args);
  });
}

template <class U, bool Masked>
void fill(const BsrFillArgs& args, const Marks& marks, std::int64_t nblocks, Stream stream) {
  // As many thread blocks a row as the average row needs; those of longer rows loop.
  const std::int64_t parts = ceil_div(nblocks, static_cast<std::int64_t>(marks.rows) * args.tile);
  launch(bsr_fill_blocks<U, Masked>, dim3(grid_x(marks.rows), grid_y(parts)),
         block_threads(static_cast<std::int64_t>(args.tile) * args.width), 0, stream, args);
}

template <class U, int V>
void turn(const BsrView& a, const int* order, void* out, Stream stream) {
  // An odd pitch: with an even one, the elements of a column would share half of the banks or
  // fewer.
  const int tile_rows = std::min(a.block_rows, kTurnSide);
  const int tile_cols = std::min(a.block_cols, kTurnSide), pitch = tile_cols | 1;
  const bool whole = a.block_rows <= kTurnSide && a.block_cols <= kTurnSide;
  const int group = whole ? std::max(kTurnElements / (tile_rows * pitch), 1) : 1;
  const std::int64_t tiles = ceil_div(a.block_rows, tile_rows) * ceil_div(a.block_cols, tile_cols);
  const BsrTurnArgs<U> args{.blocks = static_cast<const U*>(a.blocks),
                            .order = order,
                            .nblocks = static_cast<int>(a.nblocks),
                            .rows = a.block_rows,
                            .cols = a.block_cols,
                            .tile_rows = tile_rows,
                            .tile_cols = tile_cols,
                            .pitch = pitch,
                            .group = group,
                            .out = static_cast<U*>(out)};
  launch(bsr_turn_blocks<U, V>, dim3(grid_x(ceil_div(a.nblocks, group)), grid_y(tiles)),
         dim3(kBlockThreads), 0, stream, args);
}

}  // namespace

std::int64_t bsr_count_workspace(const TensorView& w, std::int64_t block_rows,
                                 std::int64_t block_cols) {
  if (w.rank != 2 || block_rows < 1 || block_cols < 1) return 0;  // bsr_count reports what is wrong
  return may_overflow(w.shape[0] / block_rows, w.shape[1] / block_cols)
             ? static_cast<std::int64_t>(sizeof(std::int64_t))
             : 0;
}

std::int64_t bsr_count(const TensorView& w, const std::optional<TensorView>& mask,
                       std::int64_t block_rows, std::int64_t block_cols, const TensorView& kept,
                       const TensorView& indptr, const TensorView& workspace, Stream stream) {
  const detail::Checker check = from_dense();
  detail::check_bsr_count(check, w, mask, block_rows, block_cols, indptr);
  const Marks marks = marks_of(check, w, block_rows, block_cols, indptr, kept);
  check.writable({"kept", kept}, {{"w", w}, {"indptr", indptr}});
  if (mask) check.writable({"kept", kept}, {{"mask", *mask}});
  check.workspace(workspace, w.device, bsr_count_workspace(w, block_rows, block_cols));
  const DeviceGuard guard(w.device);
  require_waiting(stream, "BSR.from_dense", "the number of blocks");
  if (marks.rows == 0 || marks.cols == 0) {
    fill_zero(indptr.data, (marks.rows + std::int64_t{1}) * static_cast<std::int64_t>(sizeof(int)),
              stream);
    return 0;
  }
  find(mask ? *mask : w, mask ? ~std::uint64_t{0} : without_signs(w.dtype), block_rows, block_cols,
       marks, stream);
  return count_marks(check, marks, static_cast<int*>(indptr.data),
                     static_cast<std::int64_t*>(workspace.data), "blocks", stream);
}

void bsr_fill(const TensorView& w, const std::optional<TensorView>& mask, const TensorView& kept,
              const TensorView& indptr, const TensorView& indices, const TensorView& blocks,
              Stream stream) {
  const detail::Checker check = from_dense();
  detail::check_bsr_fill(check, w, mask, indptr, indices, blocks);
  const std::int64_t rows = blocks.shape[1], cols = blocks.shape[2], nblocks = blocks.shape[0];
  const Marks marks = marks_of(check, w, rows, cols, indptr, kept);
  if (nblocks == 0) return;
  const DeviceGuard guard(w.device);
  fill_marks(marks, static_cast<int*>(indptr.data), static_cast<int*>(indices.data), stream);
  const std::int64_t size = size_of(w.dtype), stride = row_stride(w);
  const int bytes = mask ? static_cast<int>(size)
                         : std::min(access_bytes(w.data, stride, cols, size),
                                    access_bytes(blocks.data, cols, cols, size));
  const BsrFillArgs args{.source = w.data,
                         .stride = stride * size / bytes,
                         .mask = mask ? static_cast<const std::uint8_t*>(mask->data) : nullptr,
                         .mask_stride = mask ? row_stride(*mask) : 0,
                         .indptr = static_cast<const int*>(indptr.data),
                         .indices = static_cast<const int*>(indices.data),
                         .block_rows = static_cast<int>(rows),
                         .width = static_cast<int>(cols * size / bytes),
                         .tile = blocks_at_once(rows * cols * size),
                         .out = blocks.data};
  if (mask) {
    return with_bits_of(w.dtype, [&]<class U>(U) { fill<U, true>(args, marks, nblocks, stream); });
  }
  with_unit(bytes, [&]<class U>(U) {
    if constexpr (sizeof(U) > 1) fill<U, false>(args, marks, nblocks, stream);
  });
}

void bsr_to_dense(const Bsr& a, const TensorView& out, Stream stream) {
  const detail::Checker check("BSR.to_dense", DeviceType::cuda);
  detail::check_bsr_to_dense(check, a, out);
  const BsrView view = view_of(check, "a", a);
  if (view.rows == 0 || view.cols == 0) return;
  const std::int64_t size = size_of(view.dtype), stride = row_stride(out);
  const std::int64_t cols = view.block_cols, block_bytes = view.block_rows * cols * size;
  const int bytes = std::min(access_bytes(out.data, stride, cols, size),
                             access_bytes(view.blocks, cols, cols, size));
  const BsrToDenseArgs args{.indptr = view.indptr,
                            .indices = view.indices,
                            .blocks = view.blocks,
                            .block_rows = view.block_rows,
                            .width = static_cast<int>(cols * size / bytes),
                            .across = static_cast<int>(view.cols),
                            .tile = blocks_at_once(block_bytes),
                            .out = out.data,
                            .stride = stride * size / bytes};
  const std::int64_t stretch = std::min<std::int64_t>(args.tile, view.cols);
  const dim3 grid(grid_x(view.rows), grid_y(ceil_div(view.cols, args.tile)));
  const DeviceGuard guard(a.device());
  with_unit(bytes, [&]<class U>(U) {
    if constexpr (sizeof(U) > 1) {
      launch(bsr_to_dense_tiles<U>, grid, block_threads(stretch * args.width), 0, stream, args);
    }
  });
}

std::int64_t bsr_transpose_workspace(const Bsr& a) {
  const detail::Checker check("BSR.transpose", DeviceType::cuda);
  return transpose_workspace(view_of(check, "a", a).pattern());
}

void bsr_transpose(const Bsr& a, const TensorView& indptr, const TensorView& indices,
                   const std::optional<TensorView>& blocks, const TensorView& permutation,
                   const TensorView& workspace, Stream stream) {
  const detail::Checker check("BSR.transpose", DeviceType::cuda);
  detail::check_bsr_transpose(check, a, indptr, indices, blocks, permutation);
  const BsrView view = view_of(check, "a", a);
  const CsrView pattern = view.pattern();
  check.workspace(workspace, a.device(), transpose_workspace(pattern));
  const DeviceGuard guard(a.device());
  transpose(pattern,
            {.indptr = static_cast<int*>(indptr.data),
             .indices = static_cast<int*>(indices.data),
             .values = nullptr,
             .permutation = static_cast<int*>(permutation.data)},
            workspace.data, stream);
  if (!blocks || view.nblocks == 0) return;
  const auto* order = static_cast<const int*>(permutation.data);
  const auto whole = [&](const void* data, std::int64_t side) {
    return access_bytes(data, side, side, size_of(view.dtype)) == 16;
  };
  const bool vectors = whole(view.blocks, view.block_cols) && whole(blocks->data, view.block_rows);
  with_bits_of(view.dtype, [&]<class U>(U) {
    vectors ? turn<U, 16 / sizeof(U)>(view, order, blocks->data, stream)
            : turn<U, 1>(view, order, blocks->data, stream);
  });
}

}  // namespace gossamer::cuda
