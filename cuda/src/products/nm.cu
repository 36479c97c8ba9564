// spmm and linear for N:M matrices: a kernel that picks from x for few columns; for more, sparse
// tensor cores where the matrix is of half precision and stores at most two of each four
// neighbours, else decoded tiles, as where the lines of A are its columns.

#include <algorithm>
#include <bit>

#include "base/runtime.h"
#include "formats/nm/nm_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/decoded.h"
#include "products/kernels/nm_decoder.cuh"
#include "products/kernels/nm_dots.cuh"
#include "products/kernels/nm_mma.cuh"
#include "products/kernels/nm_sample.cuh"
#include "products/nm_product.h"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kMostDots = 8;

/// Are the rows of the product's A elements of lines?
bool is_across(const Nm& a, bool transpose) { return (a.axis() == 0) != transpose; }

int depth_of(DType dtype) { return dtype == DType::f64 ? 32 : 64; }

/// As many whole groups as a tile's row or column has room for.
std::int64_t groups_of(const Nm& a, bool across) {
  return (across ? kDecodedSide : depth_of(a.dtype())) / a.m();
}

/// Are at most two of each four neighbours of a line stored?
bool fits_mma(const Nm& a) {
  if (a.m() == 2) return a.n() == 1;
  return a.n() <= 2 && a.m() >= 4 && std::has_single_bit(static_cast<std::uint64_t>(a.m()));
}

bool by_mma(const Nm& a, bool across) {
  return !across && size_of(a.dtype()) == 2 && fits_mma(a) &&
         a.slots() < 0x10000000;  // bits of a line are counted by int
}

DecodedCut cut_of(const Nm& a, bool across) {
  if (by_mma(a, across)) return {kNmMmaSide, kNmMmaDepth, kNmMmaSide};
  const int side = static_cast<int>(groups_of(a, across) * a.m()), depth = depth_of(a.dtype());
  return across ? DecodedCut{side, depth} : DecodedCut{kDecodedSide, side};
}

/// `by_columns`: the columns of B are contiguous.
bool by_dots(const Nm& a, bool across, std::int64_t n, bool by_columns) {
  return !across && n <= kMostDots && by_columns && a.slots() < 0x7fffffff;
}

}  // namespace

std::int64_t multiply_workspace(const Nm& a, bool transpose, std::int64_t n, bool by_columns) {
  const bool across = is_across(a, transpose);
  if (by_dots(a, across, n, by_columns)) return 0;
  const std::int64_t m = across ? a.length() : a.lines(), k = across ? a.lines() : a.length();
  return decoded_workspace(cut_of(a, across), m, k, n, a.dtype());
}

namespace {

template <class T, int N>
void run_dots(const NmDotsArgs<T>& args, Stream stream) {
  const dim3 grid(grid_x(ceil_div(args.a.lines, kNmThreads / 32)), grid_y(ceil_div(args.n, N)));
  if constexpr (sizeof(T) == 2) {
    const bool vectors = args.wide && args.a.index_bytes % 2 == 0 &&
                         aligned(args.a.indices, 0, 1, 2) &&
                         aligned(args.x, args.n == 1 ? 0 : args.ldx, sizeof(T), 16);
    if (args.a.n == 2 && args.a.m == 4 && vectors) {
      return launch(nm_dots<T, N, true>, grid, dim3(kNmThreads), 0, stream, args);
    }
  }
  launch(nm_dots<T, N, false>, grid, dim3(kNmThreads), 0, stream, args);
}

template <class T, bool ByColumns, bool Spread>
void run_mma(const NmLines& a, const detail::Product& product, const DecodedCut& cut,
             void* workspace, Stream stream) {
  using Tile = NmMmaTile<ByColumns, Spread>;
  constexpr std::int64_t size = sizeof(T);
  const detail::DenseView& b = product.b;
  const DecodedPlan plan = plan_decoded(cut, product.m, product.k, product.n);
  // The stride of a single column is not used, so it must not affect the alignment.
  const std::int64_t stride = ByColumns && product.n == 1 ? 0 : b.stride;
  const bool wide_b = access_bytes(b.data, stride, ByColumns ? product.k : product.n, size) == 16;
  const bool wide_a = access_bytes(a.values, a.slots, a.slots, size) == 16 &&
                      aligned(a.indices, a.index_bytes, 1, 8);
  const int slice_slots = kNmMmaDepth / a.m * a.n, half_slots = std::max(slice_slots / 2, 2);
  const NmMmaArgs<T> args{
      .a = a,
      .b = static_cast<const T*>(b.data),
      .ldb = stride,
      .to = output_of<T>(product, plan.splits, workspace),
      .row_tiles = static_cast<unsigned>(plan.row_tiles),
      .slices = static_cast<int>(plan.slices),
      .split = static_cast<int>(plan.split),
      .pairs = {.pair = a.n == 1 ? 2 * a.m : a.m,
                .slice_slots = slice_slots,
                .half_slots = half_slots,
                .wide = a.slots % half_slots == 0 &&
                        aligned(a.values, a.slots, size, std::min(2 * half_slots, 16)) &&
                        aligned(a.indices, a.index_bytes, 1, 4)},
      .wide = wide_b && (Spread || wide_a)};
  const dim3 grid(grid_x(plan.row_tiles * plan.column_tiles), static_cast<unsigned>(plan.splits));
  launch(nm_mma<T, ByColumns, Spread>, grid, dim3(kNmMmaThreads), Tile::kShared, stream, args);
  if (plan.splits > 1) join_splits(args.to.partial, plan.splits, product, stream);
}

template <class T, bool ByColumns>
void run_mma(const NmLines& a, const detail::Product& product, const DecodedCut& cut,
             void* workspace, Stream stream) {
  if (a.n == 2 && a.m == 4) {
    return run_mma<T, ByColumns, false>(a, product, cut, workspace, stream);
  }
  run_mma<T, ByColumns, true>(a, product, cut, workspace, stream);
}

}  // namespace

void multiply(const Nm& a, const detail::Product& product, bool transpose, void* workspace,
              Stream stream) {
  if (product.m == 0 || product.n == 0) return;
  const bool across = is_across(a, transpose);
  const NmLines lines = lines_of(a);
  with_element_type(a.dtype(), [&]<class T>(T) {
    const detail::DenseView &b = product.b, &out = product.out;
    const bool by_columns = b.transposed || (product.n == 1 && (b.stride == 1 || product.k <= 1));
    if (by_dots(a, across, product.n, by_columns)) {
      const NmDotsArgs<T> args{
          .a = lines,
          .wide = aligned(lines.values, lines.slots, sizeof(T), 16) && lines.slots % kNmUnit == 0,
          .x = static_cast<const T*>(b.data),
          .ldx = b.transposed ? b.stride : 0,
          .n = product.n,
          .out = static_cast<T*>(out.data),
          .out_row = out.transposed ? 1 : out.stride,
          .out_col = out.transposed ? out.stride : 1,
          .finish = Finish<T>(product)};
      return product.n == 1 ? run_dots<T, 1>(args, stream) : run_dots<T, kMostDots>(args, stream);
    }
    const DecodedCut cut = cut_of(a, across);
    if constexpr (sizeof(T) == 2) {
      if (by_mma(a, across)) {
        return b.transposed ? run_mma<T, true>(lines, product, cut, workspace, stream)
                            : run_mma<T, false>(lines, product, cut, workspace, stream);
      }
    }
    const NmDecoder<T> decoder{
        .a = lines, .groups = static_cast<int>(groups_of(a, across)), .across = across};
    multiply_decoded<T, T>(decoder, cut, product, workspace, stream);
  });
}

void sample(const TensorView& a, const TensorView& b, const Nm& pattern, const TensorView& out,
            bool accumulate, Stream stream) {
  if (pattern.nnz() == 0) return;
  const TensorView &left = pattern.axis() == 1 ? a : b, &right = pattern.axis() == 1 ? b : a;
  with_element_type(pattern.dtype(), [&]<class T>(T) {
    const NmSampleArgs<T> args{.a = lines_of(pattern),
                               .left = static_cast<const T*>(left.data),
                               .ldl = row_stride(left),
                               .right = static_cast<const T*>(right.data),
                               .ldr = row_stride(right),
                               .depth = left.shape[1],
                               .out = static_cast<T*>(out.data),
                               .accumulate = accumulate};
    launch(nm_sample<T>, dim3(grid_x(ceil_div(pattern.nnz(), kNmThreads / kNmSampleLanes))),
           dim3(kNmThreads), 0, stream, args);
  });
}

namespace {

std::int64_t tokens_of(const TensorView& x) {
  std::int64_t n = 1;
  for (int d = 0; d + 1 < x.rank; ++d) n *= x.shape[static_cast<std::size_t>(d)];
  return n;
}

}  // namespace

std::int64_t spmm_workspace(const Nm& a, const TensorView& b, bool transpose_a) {
  const std::int64_t n = b.rank == 2 ? b.shape[1] : 1;
  // The only column of a matrix may be strided.
  const bool by_columns = b.rank == 1 || (n == 1 && (b.strides[0] == 1 || b.shape[0] <= 1));
  return multiply_workspace(a, transpose_a, n, by_columns);
}

void spmm(const Nm& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream) {
  const detail::Checker check("spmm", DeviceType::cuda);
  const detail::Product product =
      detail::check_spmm(check, detail::describe(a), b, out, transpose_a, epilogue);
  detail::check_apart(check, "a", a, out);
  require_int(check, "a", a);
  check.workspace(workspace, a.device(), spmm_workspace(a, b, transpose_a));
  const DeviceGuard guard(a.device());
  multiply(a, product, transpose_a, workspace.data, stream);
}

std::int64_t linear_workspace(const TensorView& x, const Nm& w) {
  return multiply_workspace(w, false, tokens_of(x), true);
}

void linear(const TensorView& x, const Nm& w, const TensorView& out, const Epilogue& epilogue,
            const TensorView& workspace, Stream stream) {
  const detail::Checker check("linear", DeviceType::cuda);
  const detail::Product product =
      detail::check_linear(check, x, detail::describe(w), out, epilogue);
  detail::check_apart(check, "w", w, out);
  require_int(check, "w", w);
  check.workspace(workspace, w.device(), linear_workspace(x, w));
  const DeviceGuard guard(w.device());
  detail::for_parts(product, [&](const detail::Product& part) {
    multiply(w, part, false, workspace.data, stream);
  });
}

}  // namespace gossamer::cuda
