// spmm and linear for BSR matrices: on tensor cores for blocks of half precision whose sides are
// multiples of 16, else by a kernel for any blocks.

#include <algorithm>
#include <cstdint>
#include <limits>

#include "base/launch.h"
#include "base/runtime.h"
#include "formats/bsr/bsr_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/bsr_product.h"
#include "products/bsr_wgmma.h"
#include "products/csr_product.h"
#include "products/decoded.h"
#include "products/kernels/bsr_spmm.cuh"
#include "products/kernels/bsr_spmm_mma.cuh"
#include "products/kernels/bsr_spmm_wide.cuh"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<int>::max();

/// The A of a product: a matrix, or its transpose, which uses the matrix's blocks where they are.
struct Operand {
  BsrView a;         // the transpose's structure; the blocks are the matrix's
  const int* order;  // which block each entry has; null: block p for entry p
  bool transposed = false;

  explicit Operand(const BsrView& matrix) : a(matrix), order(nullptr) {}
  Operand(const BsrView& matrix, const CsrTransposed& t)
      : a{.indptr = t.indptr,
          .indices = t.indices,
          .blocks = matrix.blocks,
          .dtype = matrix.dtype,
          .rows = matrix.cols,
          .cols = matrix.rows,
          .nblocks = matrix.nblocks,
          .block_rows = matrix.block_cols,
          .block_cols = matrix.block_rows},
        order(t.permutation),
        transposed(true) {}

  /// The distance in elements from one row of a block in memory to the next.
  [[nodiscard]] int pitch() const noexcept { return transposed ? a.block_rows : a.block_cols; }
};

/// The transpose's structure, and the scratch memory to make it.
struct Plan {
  CsrTransposed transposed;
  void* scratch;
};

Plan carve(const CsrView& pattern, Carver& carver) {
  return {.transposed = {.indptr = carver.take<int>(pattern.cols + 1),
                         .indices = carver.take<int>(pattern.nnz),
                         .values = nullptr,
                         .permutation = carver.take<int>(pattern.nnz)},
          .scratch = carver.take_bytes(transpose_workspace(pattern))};
}

/// How a product on tensor cores is cut. Depends on sizes alone, so that sums do too.
struct MmaPlan {
  std::int64_t row_tiles, column_tiles;
  std::int64_t splits;  // thread blocks that share the slices of a tile
};

/// The sides of blocks that tiles have: of up to 32 rows and as deep slices.
std::int64_t side_of(std::int64_t block_rows, std::int64_t block_cols) {
  return block_rows % 32 == 0 && block_cols % 32 == 0 ? 32 : 16;
}

/// Tiles of 64 rows by 256 columns pay where these are not half empty.
bool takes_wide(std::int64_t block_rows, std::int64_t block_cols, std::int64_t n) {
  return block_rows % kBsrWideRows == 0 && block_cols % kWideDepth == 0 && n > kWideColumns / 2;
}

/// `depth`: of A's row of blocks, all in all.
MmaPlan plan_of(std::int64_t m, std::int64_t n, std::int64_t depth, bool wide, std::int64_t side) {
  // About eight warps for each multiprocessor of a large GPU, with a few slices each.
  constexpr std::int64_t kWarps = 1056, kLeastDepth = 128, kMostSplits = 16;
  const std::int64_t rows = wide ? kBsrWideRows : side;
  // With so few columns, more than one warp would have nothing to do.
  const std::int64_t warps = !wide && n <= 32 ? 1 : 4;
  MmaPlan plan{.row_tiles = m / rows,
               .column_tiles = ceil_div(n, wide ? kWideColumns : 32 * warps),
               .splits = 1};
  const std::int64_t all = std::max<std::int64_t>(plan.row_tiles * plan.column_tiles * warps, 1);
  plan.splits =
      std::clamp<std::int64_t>(std::min(kWarps / all, depth / kLeastDepth), 1, kMostSplits);
  return plan;
}

/// The elements that a row of A has on average.
std::int64_t depth_of(std::int64_t rows, std::int64_t nblocks, std::int64_t block_cols) {
  return rows == 0 ? 0 : nblocks * block_cols / rows;
}

/// Bytes of the sums of the splits of a product with n columns, or with up to n if it may be made
/// in parts.
std::int64_t sums_bytes(const BsrView& a, bool transposed, std::int64_t n, bool parts) {
  if (size_of(a.dtype) != 2 || a.block_rows % 16 != 0 || a.block_cols % 16 != 0) return 0;
  const std::int64_t rows = transposed ? a.cols : a.rows;
  const std::int64_t block_rows = transposed ? a.block_cols : a.block_rows;
  const std::int64_t block_cols = transposed ? a.block_rows : a.block_cols;
  const std::int64_t m = rows * block_rows, depth = depth_of(rows, a.nblocks, block_cols);
  const std::int64_t side = side_of(block_rows, block_cols);
  std::int64_t most = 0;
  const auto add = [&](std::int64_t columns, bool wide) {
    const std::int64_t splits = plan_of(m, columns, depth, wide, side).splits;
    if (splits > 1) most = std::max(most, splits * m * columns);
    return splits > 1;
  };
  for (const bool wide : {false, true}) {
    if (wide && !takes_wide(block_rows, block_cols, n)) continue;
    add(n, wide);
    if (!parts) continue;
    // With more columns than these there are no splits.
    if (!wide) add(std::min<std::int64_t>(n, 32), wide);
    const std::int64_t step = wide ? kWideColumns : 128;
    for (std::int64_t columns = step; columns < n && add(columns, wide);) columns += step;
  }
  return most * static_cast<std::int64_t>(sizeof(float));
}

/// The arguments of a tile of `rows` rows; `stride`: B's.
template <class T>
BsrMmaArgs<T> arguments(const Operand& operand, const detail::Product& product, const MmaPlan& plan,
                        std::int64_t stride, int depth, void* sums) {
  constexpr std::int64_t size = sizeof(T);
  const BsrView& a = operand.a;
  const detail::DenseView &b = product.b, &out = product.out;
  return {.indptr = a.indptr,
          .indices = a.indices,
          .order = operand.order,
          .blocks = static_cast<const T*>(a.blocks),
          .block_rows = a.block_rows,
          .block_cols = a.block_cols,
          .block_size = static_cast<std::int64_t>(a.block_rows) * a.block_cols,
          .row_tiles = static_cast<unsigned>(plan.row_tiles),
          .b = static_cast<const T*>(b.data),
          .ldb = stride,
          .to = output_of<T>(product, plan.splits, sums),
          .wide_a = access_bytes(a.blocks, operand.pitch(), depth, size) == 16,
          .wide_b = access_bytes(b.data, stride, b.transposed ? depth : product.n, size) == 16,
          .along_a = !operand.transposed,
          .along_b = b.transposed,
          .down = out.transposed};
}

template <class T>
void launch_mma(void (*kernel)(BsrMmaArgs<T>), int threads, int shared, const BsrMmaArgs<T>& args,
                const MmaPlan& plan, const detail::Product& product, Stream stream) {
  const dim3 grid(grid_x(plan.column_tiles * plan.row_tiles), static_cast<unsigned>(plan.splits));
  launch(kernel, grid, dim3(static_cast<unsigned>(threads)), static_cast<std::size_t>(shared),
         stream, args);
  if (plan.splits > 1) join_splits(args.to.partial, plan.splits, product, stream);
}

template <class T, int Side, int Warps, BsrLayout Layout>
void run_mma(const Operand& operand, const detail::Product& product, const MmaPlan& plan,
             void* sums, Stream stream) {
  constexpr int kDepth = Side == 16 ? 64 : 32;
  using Tile = BsrMmaTile<Side, kDepth, Warps, Layout>;
  // The stride of a single column is not used, so it must not affect the alignment.
  const std::int64_t stride = Tile::kByColumns && product.n == 1 ? 0 : product.b.stride;
  BsrMmaArgs<T> args = arguments<T>(operand, product, plan, stride, Side, sums);
  launch_mma<T>(bsr_spmm_mma<T, Side, kDepth, Warps, Layout>, Tile::kThreads, Tile::kShared, args,
                plan, product, stream);
}

template <class T, int Side, BsrLayout Layout>
void run_width(const Operand& a, const detail::Product& product, const MmaPlan& plan, void* sums,
               Stream stream) {
  if (product.n <= 32) {
    run_mma<T, Side, 1, Layout>(a, product, plan, sums, stream);
  } else {
    run_mma<T, Side, 4, Layout>(a, product, plan, sums, stream);
  }
}

template <class T, BsrLayout Layout>
void run_side(const Operand& a, const detail::Product& product, std::int64_t side, void* sums,
              Stream stream) {
  const std::int64_t depth = depth_of(a.a.rows, a.a.nblocks, a.a.block_cols);
  const MmaPlan plan = plan_of(product.m, product.n, depth, false, side);
  side == 32 ? run_width<T, 32, Layout>(a, product, plan, sums, stream)
             : run_width<T, 16, Layout>(a, product, plan, sums, stream);
}

/// Returns whether the product was queued.
template <class T>
bool multiply_wide(const Operand& operand, const detail::Product& product, void* sums,
                   Stream stream) {
  const BsrView& a = operand.a;
  if (!takes_wide(a.block_rows, a.block_cols, product.n)) return false;
  const std::int64_t depth = depth_of(a.rows, a.nblocks, a.block_cols);
  const MmaPlan plan = plan_of(product.m, product.n, depth, true, kBsrWideRows);
  const BsrMmaArgs<T> args =
      arguments<T>(operand, product, plan, product.b.stride, kWideDepth, sums);
  if (!args.wide_a || !args.wide_b || plan.column_tiles * plan.row_tiles > kMax) return false;
  launch_mma<T>(bsr_spmm_wide<T>, kBsrWideThreads, BsrWideShared::kBytes, args, plan, product,
                stream);
  return true;
}

/// Returns whether the product was queued.
template <class T>
bool multiply_mma(const Operand& operand, const detail::Product& product, void* sums,
                  Stream stream) {
  const BsrView& a = operand.a;
  if (a.block_rows % 16 != 0 || a.block_cols % 16 != 0) return false;
  if (multiply_wide<T>(operand, product, sums, stream)) return true;
  // The transposed product reads B by rows here, as which a single column will do.
  if (operand.transposed && product.b.transposed && product.n > 1) return false;
  const std::int64_t side = side_of(a.block_rows, a.block_cols);
  if (ceil_div(product.n, 32) * (product.m / side) > kMax) return false;
  if (operand.transposed) {
    // B is stored by rows; a vector is a matrix with rows of one element.
    run_side<T, BsrLayout::transposed>(operand, product, side, sums, stream);
  } else if (product.b.transposed) {
    run_side<T, BsrLayout::columns>(operand, product, side, sums, stream);
  } else {
    run_side<T, BsrLayout::rows>(operand, product, side, sums, stream);
  }
  return true;
}

template <class T>
void multiply_any(const Operand& operand, const detail::Product& product, Stream stream) {
  const BsrView& a = operand.a;
  const detail::DenseView &b = product.b, &out = product.out;
  const std::int64_t groups = ceil_div(a.block_rows, kBsrRows);
  const BsrArgs<T> args{.indptr = a.indptr,
                        .indices = a.indices,
                        .order = operand.order,
                        .blocks = static_cast<const T*>(a.blocks),
                        .block_rows = a.block_rows,
                        .block_cols = a.block_cols,
                        .groups = static_cast<int>(groups),
                        .tasks = groups * a.rows,
                        .b = static_cast<const T*>(b.data),
                        .b_row = b.transposed ? 1 : b.stride,
                        .b_col = b.transposed ? b.stride : 1,
                        .n = product.n,
                        .out = static_cast<T*>(out.data),
                        .out_row = out.transposed ? 1 : out.stride,
                        .out_col = out.transposed ? out.stride : 1,
                        .finish = Finish<T>(product)};
  const dim3 grid(grid_x(ceil_div(args.tasks, kBsrWarps)),
                  grid_y(ceil_div(product.n, 32 * kBsrColumns)));
  launch(operand.transposed ? bsr_spmm<T, true> : bsr_spmm<T, false>, grid, dim3(32, kBsrWarps), 0,
         stream, args);
}

void multiply(const Operand& a, const detail::Product& product, void* sums, Stream stream) {
  if (product.m == 0 || product.n == 0) return;
  if (multiply_wgmma(a.a, a.order, a.transposed, product, stream)) return;
  with_element_type(a.a.dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) == 2) {
      if (multiply_mma<T>(a, product, sums, stream)) return;
    }
    multiply_any<T>(a, product, stream);
  });
}

detail::Checker spmm_checker() { return detail::Checker("spmm", DeviceType::cuda); }

}  // namespace

std::int64_t multiply_workspace(const BsrView& a, bool transposed, std::int64_t n) {
  Carver carver(nullptr);
  carver.take_bytes(sums_bytes(a, transposed, n, false));
  if (transposed) static_cast<void>(carve(a.pattern(), carver));
  return carver.used();
}

void multiply(const BsrView& a, const detail::Product& product, bool transposed, void* workspace,
              Stream stream) {
  Carver carver(workspace);
  void* const sums = carver.take_bytes(sums_bytes(a, transposed, product.n, false));
  if (!transposed || product.m == 0 || product.n == 0) {
    return multiply(Operand(a), product, sums, stream);
  }
  // Transposes the indices only; blocks are read as they are stored. A caller that multiplies by Aᵀ
  // often can keep the result (bsr_transpose).
  const Plan plan = carve(a.pattern(), carver);
  transpose(a.pattern(), plan.transposed, plan.scratch, stream);
  multiply(Operand(a, plan.transposed), product, sums, stream);
}

std::int64_t spmm_workspace(const Bsr& a, const TensorView& b, bool transpose_a) {
  const BsrView view = view_of(spmm_checker(), "a", a);
  return multiply_workspace(view, transpose_a, b.rank == 2 ? b.shape[1] : 1);
}

void spmm(const Bsr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream) {
  const detail::Checker check = spmm_checker();
  const detail::Product product =
      detail::check_spmm(check, detail::describe(a), b, out, transpose_a, epilogue);
  detail::check_apart(check, "a", a, out);
  const BsrView view = view_of(check, "a", a);
  check.workspace(workspace, a.device(), spmm_workspace(a, b, transpose_a));
  const DeviceGuard guard(a.device());
  multiply(view, product, transpose_a, workspace.data, stream);
}

std::int64_t linear_workspace(const TensorView& x, const Bsr& w) {
  std::int64_t n = 1;
  for (int d = 0; d + 1 < x.rank; ++d) n *= x.shape[static_cast<std::size_t>(d)];
  const detail::Checker check("linear", DeviceType::cuda);
  return sums_bytes(view_of(check, "w", w), false, n, x.rank > 2);
}

void linear(const TensorView& x, const Bsr& w, const TensorView& out, const Epilogue& epilogue,
            const TensorView& workspace, Stream stream) {
  const detail::Checker check("linear", DeviceType::cuda);
  const detail::Product product =
      detail::check_linear(check, x, detail::describe(w), out, epilogue);
  detail::check_apart(check, "w", w, out);
  const BsrView view = view_of(check, "w", w);
  check.workspace(workspace, w.device(), linear_workspace(x, w));
  const DeviceGuard guard(w.device());
  detail::for_parts(product, [&](const detail::Product& part) {
    multiply(Operand(view), part, workspace.data, stream);
  });
}

}  // namespace gossamer::cuda
