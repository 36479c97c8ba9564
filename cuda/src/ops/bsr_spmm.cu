// spmm and linear of BSR matrices: tensor cores for blocks of half precision whose sides are
// multiples of 16, else a kernel for any blocks.

#include <limits>
#include <string>

#include "gossamer/check.h"
#include "gossamer/cuda.h"
#include "kernels/bsr_spmm.cuh"
#include "kernels/bsr_spmm_mma.cuh"
#include "ops/launch.h"
#include "runtime.h"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<int>::max();

void check_matrix(const Checker& check, const char* name, const Bsr& a) {
  if (a.index_dtype() != DType::i32) {
    check.not_implemented(std::string(name) + ".index_dtype is int64, expected int32 on a GPU");
  }
  if (a.rows() >= kMax || a.cols() >= kMax) {
    check.not_implemented(std::string(name) + ".shape is (" + std::to_string(a.rows()) + ", " +
                          std::to_string(a.cols()) + "), expected less than 2**31 - 1 on a GPU");
  }
}

template <class T, int Side, int Warps, bool ByColumns>
void run_mma(const Bsr& a, const Product& product, Stream stream) {
  using Tile = BsrMmaTile<Side, Side, Warps, ByColumns>;
  constexpr std::int64_t size = sizeof(T);
  const DenseView &b = product.b, &out = product.out;
  const BsrMmaArgs<T> args{
      .indptr = static_cast<const int*>(a.indptr().data),
      .indices = static_cast<const int*>(a.indices().data),
      .blocks = static_cast<const T*>(a.blocks().data),
      .block_rows = static_cast<int>(a.block_rows()),
      .block_cols = static_cast<int>(a.block_cols()),
      .row_tiles = static_cast<unsigned>(product.m / Side),
      .b = static_cast<const T*>(b.data),
      .ldb = b.stride,
      .n = product.n,
      .out = static_cast<T*>(out.data),
      .ldo = out.stride,
      .finish = Finish<T>(product),
      .copy_a = access_bytes(a.blocks().data, a.block_cols(), Side, size),
      .copy_b = access_bytes(b.data, b.stride, ByColumns ? std::int64_t{Side} : product.n, size),
      .packs = aligned(out.data, out.stride, size, 16) && product.n % 8 == 0};
  const std::int64_t tiles = ceil_div(product.n, Tile::kColumns) * args.row_tiles;
  launch(bsr_spmm_mma<T, Side, Side, Warps, ByColumns>, dim3(grid_x(tiles)), dim3(Tile::kThreads),
         Tile::kShared, stream, args);
}

template <class T, int Side, bool ByColumns>
void run_width(const Bsr& a, const Product& product, Stream stream) {
  // A warp alone where more would have nothing to do.
  if (product.n <= 32) {
    run_mma<T, Side, 1, ByColumns>(a, product, stream);
  } else {
    run_mma<T, Side, 4, ByColumns>(a, product, stream);
  }
}

/// True where the product has been queued.
template <class T>
bool multiply_mma(const Bsr& a, const Product& product, Stream stream) {
  if (a.block_rows() % 16 != 0 || a.block_cols() % 16 != 0) return false;
  const bool wide = a.block_rows() % 32 == 0 && a.block_cols() % 32 == 0;
  const std::int64_t side = wide ? 32 : 16;
  if (ceil_div(product.n, 32) * (product.m / side) > kMax) return false;
  if (product.b.transposed) {
    wide ? run_width<T, 32, true>(a, product, stream) : run_width<T, 16, true>(a, product, stream);
  } else {
    wide ? run_width<T, 32, false>(a, product, stream)
         : run_width<T, 16, false>(a, product, stream);
  }
  return true;
}

template <class T>
void multiply_any(const Bsr& a, const Product& product, Stream stream) {
  const DenseView &b = product.b, &out = product.out;
  const std::int64_t groups = ceil_div(a.block_rows(), kBsrRows);
  const BsrArgs<T> args{.indptr = static_cast<const int*>(a.indptr().data),
                        .indices = static_cast<const int*>(a.indices().data),
                        .blocks = static_cast<const T*>(a.blocks().data),
                        .block_rows = static_cast<int>(a.block_rows()),
                        .block_cols = static_cast<int>(a.block_cols()),
                        .groups = static_cast<int>(groups),
                        .tasks = groups * (a.rows() / a.block_rows()),
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
  launch(bsr_spmm<T>, grid, dim3(32, kBsrWarps), 0, stream, args);
}

void multiply(const Bsr& a, const Product& product, Stream stream) {
  if (product.m == 0 || product.n == 0) return;
  const DeviceGuard guard(a.device());
  with_element_type(a.dtype(), [&]<class T>(T) {
    if constexpr (sizeof(T) == 2) {
      if (multiply_mma<T>(a, product, stream)) return;
    }
    multiply_any<T>(a, product, stream);
  });
}

}  // namespace

std::int64_t spmm_workspace(const Bsr& /*a*/, const TensorView& /*b*/, bool /*transpose_a*/) {
  return 0;
}

void spmm(const Bsr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream) {
  const Checker check("spmm", DeviceType::cuda);
  const Product product = check_spmm(check, describe(a), b, out, transpose_a, epilogue);
  check_apart(check, "a", a, out);
  check_matrix(check, "a", a);
  check.workspace(workspace, a.device(), spmm_workspace(a, b, transpose_a));
  if (transpose_a) {
    check.not_implemented("transpose_a is True, expected False for a BSR on a GPU");
  }
  multiply(a, product, stream);
}

std::int64_t linear_workspace(const TensorView& /*x*/, const Bsr& /*w*/) { return 0; }

void linear(const TensorView& x, const Bsr& w, const TensorView& out, const Epilogue& epilogue,
            const TensorView& workspace, Stream stream) {
  const Checker check("linear", DeviceType::cuda);
  const Product product = check_linear(check, x, describe(w), out, epilogue);
  check_apart(check, "w", w, out);
  check_matrix(check, "w", w);
  check.workspace(workspace, w.device(), linear_workspace(x, w));
  multiply(w, product, stream);
}

}  // namespace gossamer::cuda
