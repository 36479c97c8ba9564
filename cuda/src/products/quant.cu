// spmm and linear for group-quantised matrices: a kernel that decodes in
// registers for few columns, decoded tiles for more and for the transpose.

#include "base/runtime.h"
#include "formats/quant/quant_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/decoded.h"
#include "products/kernels/quant_dots.cuh"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kMostDots = 8;

DecodedCut cut_of(DType dtype) { return {kDecodedSide, dtype == DType::f64 ? 32 : 64}; }

/// `by_columns`: the columns of B are contiguous.
bool by_dots(bool transpose, std::int64_t n, bool by_columns) {
  return !transpose && n <= kMostDots && by_columns;
}

std::int64_t workspace_of(const GroupQuant& a, bool transpose, std::int64_t n, bool by_columns) {
  if (by_dots(transpose, n, by_columns)) return 0;
  const std::int64_t m = transpose ? a.cols() : a.rows(), k = transpose ? a.rows() : a.cols();
  return decoded_workspace(cut_of(a.dtype()), m, k, n, a.dtype());
}

template <class T, int N>
void run_dots(const QuantDotsArgs<T>& args, Stream stream) {
  const dim3 grid(grid_x(ceil_div(args.a.rows, kQuantThreads / 32)), grid_y(ceil_div(args.n, N)));
  launch(quant_dots<T, N>, grid, dim3(kQuantThreads), 0, stream, args);
}

void multiply(const GroupQuant& a, const detail::Product& product, bool transpose, void* workspace,
              Stream stream) {
  if (product.m == 0 || product.n == 0) return;
  const QuantRows rows = rows_of(a);
  with_element_type(a.dtype(), [&]<class T>(T) {
    const detail::DenseView &b = product.b, &out = product.out;
    const bool by_columns = b.transposed || (product.n == 1 && (b.stride == 1 || product.k <= 1));
    if (by_dots(transpose, product.n, by_columns)) {
      const std::int64_t ldx = b.transposed ? b.stride : 0;
      const QuantDotsArgs<T> args{.a = rows,
                                  .x = static_cast<const T*>(b.data),
                                  .ldx = ldx,
                                  .n = product.n,
                                  .wide = aligned(b.data, product.n == 1 ? 0 : ldx, sizeof(T), 16),
                                  .by_words = aligned(rows.codes, 0, 1, 4),
                                  .out = static_cast<T*>(out.data),
                                  .out_row = out.transposed ? 1 : out.stride,
                                  .out_col = out.transposed ? out.stride : 1,
                                  .finish = Finish<T>(product)};
      return product.n == 1 ? run_dots<T, 1>(args, stream) : run_dots<T, kMostDots>(args, stream);
    }
    const QuantDecoder<Sum<T>> decoder{.a = rows, .across = transpose};
    multiply_decoded<T, Sum<T>>(decoder, cut_of(a.dtype()), product, workspace, stream);
  });
}

std::int64_t tokens_of(const TensorView& x) {
  std::int64_t n = 1;
  for (int d = 0; d + 1 < x.rank; ++d) n *= x.shape[static_cast<std::size_t>(d)];
  return n;
}

}  // namespace

std::int64_t spmm_workspace(const GroupQuant& a, const TensorView& b, bool transpose_a) {
  const std::int64_t n = b.rank == 2 ? b.shape[1] : 1;
  // The only column of a matrix may be strided.
  const bool by_columns = b.rank == 1 || (n == 1 && (b.strides[0] == 1 || b.shape[0] <= 1));
  return workspace_of(a, transpose_a, n, by_columns);
}

void spmm(const GroupQuant& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream) {
  const detail::Checker check("spmm", DeviceType::cuda);
  const detail::Product product =
      detail::check_spmm(check, detail::describe(a), b, out, transpose_a, epilogue);
  detail::check_apart(check, "a", a, out);
  check.workspace(workspace, a.device(), spmm_workspace(a, b, transpose_a));
  const DeviceGuard guard(a.device());
  multiply(a, product, transpose_a, workspace.data, stream);
}

std::int64_t linear_workspace(const TensorView& x, const GroupQuant& w) {
  return workspace_of(w, false, tokens_of(x), true);
}

void linear(const TensorView& x, const GroupQuant& w, const TensorView& out,
            const Epilogue& epilogue, const TensorView& workspace, Stream stream) {
  const detail::Checker check("linear", DeviceType::cuda);
  const detail::Product product =
      detail::check_linear(check, x, detail::describe(w), out, epilogue);
  detail::check_apart(check, "w", w, out);
  check.workspace(workspace, w.device(), linear_workspace(x, w));
  const DeviceGuard guard(w.device());
  detail::for_parts(product, [&](const detail::Product& part) {
    multiply(w, part, false, workspace.data, stream);
  });
}

}  // namespace gossamer::cuda
