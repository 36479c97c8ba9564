// spmm and linear for BSR matrices: on tensor cores for blocks of half precision whose sides are
// multiples of 16, else by a kernel for any blocks.

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
#include "products/kernels/bsr_spmm.cuh"
#include "products/kernels/bsr_spmm_mma.cuh"

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

template <class T, int Side, int Warps, BsrLayout Layout>
void run_mma(const Operand& operand, const detail::Product& product, Stream stream) {
  using Tile = BsrMmaTile<Side, Side, Warps, Layout>;
  constexpr std::int64_t size = sizeof(T);
  const BsrView& a = operand.a;
  const detail::DenseView &b = product.b, &out = product.out;
  // The stride of a single column is not used, so it must not affect the alignment.
  const std::int64_t stride = Tile::kByColumns && product.n == 1 ? 0 : b.stride;
  const BsrMmaArgs<T> args{
      .indptr = a.indptr,
      .indices = a.indices,
      .order = operand.order,
      .blocks = static_cast<const T*>(a.blocks),
      .block_rows = a.block_rows,
      .block_cols = a.block_cols,
      .row_tiles = static_cast<unsigned>(product.m / Side),
      .b = static_cast<const T*>(b.data),
      .ldb = stride,
      .n = product.n,
      .out = static_cast<T*>(out.data),
      .ldo = out.stride,
      .finish = Finish<T>(product),
      .wide_a = access_bytes(a.blocks, operand.pitch(), Side, size) == 16,
      .wide_b = access_bytes(b.data, stride, Tile::kByColumns ? Side : product.n, size) == 16,
      .packs = aligned(out.data, out.stride, size, 16) && product.n % 8 == 0};
  const std::int64_t tiles = ceil_div(product.n, Tile::kColumns) * args.row_tiles;
  launch(bsr_spmm_mma<T, Side, Side, Warps, Layout>, dim3(grid_x(tiles)), dim3(Tile::kThreads),
         Tile::kShared, stream, args);
}

template <class T, int Side, BsrLayout Layout>
void run_width(const Operand& a, const detail::Product& product, Stream stream) {
  // With so few columns, more than one warp would have nothing to do.
  if (product.n <= 32) {
    run_mma<T, Side, 1, Layout>(a, product, stream);
  } else {
    run_mma<T, Side, 4, Layout>(a, product, stream);
  }
}

template <class T, BsrLayout Layout>
void run_side(const Operand& a, const detail::Product& product, bool wide, Stream stream) {
  wide ? run_width<T, 32, Layout>(a, product, stream)
       : run_width<T, 16, Layout>(a, product, stream);
}

/// Returns whether the product was queued.
template <class T>
bool multiply_mma(const Operand& operand, const detail::Product& product, Stream stream) {
  const BsrView& a = operand.a;
  if (a.block_rows % 16 != 0 || a.block_cols % 16 != 0) return false;
  const bool wide = a.block_rows % 32 == 0 && a.block_cols % 32 == 0;
  const std::int64_t side = wide ? 32 : 16;
  if (ceil_div(product.n, 32) * (product.m / side) > kMax) return false;
  if (operand.transposed) {
    // B is stored by rows; a vector is a matrix with rows of one element.
    run_side<T, BsrLayout::transposed>(operand, product, wide, stream);
  } else if (product.b.transposed) {
    run_side<T, BsrLayout::columns>(operand, product, wide, stream);
  } else {
    run_side<T, BsrLayout::rows>(operand, product, wide, stream);
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

void multiply(const Operand& a, const detail::Product& product, Stream stream) {
  if (product.m == 0 || product.n == 0) return;
  if (multiply_wgmma(a.a, a.order, a.transposed, product, stream)) return;
  // The transposed product on tensor cores reads B by rows, as which a single column will do.
  const bool any = a.transposed && product.b.transposed && product.n > 1;
  with_element_type(a.a.dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) == 2) {
      if (any) return multiply_any<T>(a, product, stream);
      if (multiply_mma<T>(a, product, stream)) return;
    }
    multiply_any<T>(a, product, stream);
  });
}

detail::Checker spmm_checker() { return detail::Checker("spmm", DeviceType::cuda); }

}  // namespace

std::int64_t multiply_transposed_workspace(const BsrView& a) {
  Carver carver(nullptr);
  static_cast<void>(carve(a.pattern(), carver));
  return carver.used();
}

void multiply(const BsrView& a, const detail::Product& product, bool transposed, void* workspace,
              Stream stream) {
  if (!transposed || product.m == 0 || product.n == 0) {
    return multiply(Operand(a), product, stream);
  }
  // Transposes the indices only; blocks are read as they are stored. A caller that multiplies by Aᵀ
  // often can keep the result (bsr_transpose).
  Carver carver(workspace);
  const Plan plan = carve(a.pattern(), carver);
  transpose(a.pattern(), plan.transposed, plan.scratch, stream);
  multiply(Operand(a, plan.transposed), product, stream);
}

std::int64_t spmm_workspace(const Bsr& a, const TensorView& /*b*/, bool transpose_a) {
  const BsrView view = view_of(spmm_checker(), "a", a);
  return transpose_a ? multiply_transposed_workspace(view) : 0;
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

std::int64_t linear_workspace(const TensorView& /*x*/, const Bsr& /*w*/) { return 0; }

void linear(const TensorView& x, const Bsr& w, const TensorView& out, const Epilogue& epilogue,
            const TensorView& workspace, Stream stream) {
  const detail::Checker check("linear", DeviceType::cuda);
  const detail::Product product =
      detail::check_linear(check, x, detail::describe(w), out, epilogue);
  detail::check_apart(check, "w", w, out);
  const BsrView view = view_of(check, "w", w);
  check.workspace(workspace, w.device(), linear_workspace(x, w));
  const DeviceGuard guard(w.device());
  detail::for_parts(product,
                    [&](const detail::Product& part) { multiply(Operand(view), part, stream); });
}

}  // namespace gossamer::cuda
