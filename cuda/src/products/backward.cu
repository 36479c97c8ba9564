// The gradients of spmm and linear: a product with the transpose, a sampled product of dense
// matrices, and sums. The rows that a sampled product meets must be contiguous: linear's operands
// are transposed first.

#include "base/carver.h"
#include "base/kernels/tile_transpose.cuh"
#include "base/launch.h"
#include "base/runtime.h"
#include "formats/bsr/bsr_view.h"
#include "formats/nm/nm_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/bsr_product.h"
#include "products/csr_product.h"
#include "products/kernels/row_sums.cuh"
#include "products/nm_product.h"
#include "products/sddmm.h"

namespace gossamer::cuda {
namespace {

/// The formats as products take them.
CsrView prepared(const detail::Checker& check, const char* name, const Csr& a) {
  return view_of(check, name, a);
}
BsrView prepared(const detail::Checker& check, const char* name, const Bsr& a) {
  return view_of(check, name, a);
}
const Nm& prepared(const detail::Checker& check, const char* name, const Nm& a) {
  require_int(check, name, a);
  return a;
}

void multiply_by(const CsrView& a, const detail::Product& product, bool transposed, void* workspace,
                 Stream stream) {
  transposed ? multiply_transposed(a, product, workspace, stream)
             : multiply(a, product, workspace, stream);
}
void multiply_by(const BsrView& a, const detail::Product& product, bool transposed, void* workspace,
                 Stream stream) {
  multiply(a, product, transposed, workspace, stream);
}
void multiply_by(const Nm& a, const detail::Product& product, bool transposed, void* workspace,
                 Stream stream) {
  multiply(a, product, transposed, workspace, stream);
}

std::int64_t product_workspace(const CsrView& a, bool transposed, std::int64_t n, bool by_columns) {
  return transposed ? multiply_transposed_workspace(a, n, by_columns && n > 1)
                    : multiply_workspace(a, n, by_columns);
}
std::int64_t product_workspace(const BsrView& a, bool transposed, std::int64_t n,
                               bool /*by_columns*/) {
  return multiply_workspace(a, transposed, n);
}
std::int64_t product_workspace(const Nm& a, bool transposed, std::int64_t n, bool by_columns) {
  return multiply_workspace(a, transposed, n, by_columns);
}

void sample_at(const CsrView& a, const TensorView& x, const TensorView& y, const TensorView& out,
               bool accumulate, Stream stream) {
  sample(a, SddmmOperands{x, y, out, accumulate}, stream);
}
void sample_at(const BsrView& a, const TensorView& x, const TensorView& y, const TensorView& out,
               bool accumulate, Stream stream) {
  sample(a, SddmmOperands{x, y, out, accumulate}, stream);
}
void sample_at(const Nm& a, const TensorView& x, const TensorView& y, const TensorView& out,
               bool accumulate, Stream stream) {
  sample(x, y, a, out, accumulate, stream);
}

/// Does the product with the transpose need its operand by rows to use tensor cores?
template <class Format>
bool needs_rows(const Format& /*a*/) {
  return false;
}
bool needs_rows(const Bsr& a) {
  return size_of(a.dtype()) == 2 && a.block_rows() % 16 == 0 && a.block_cols() % 16 == 0;
}

/// Copies in the workspace whose rows are contiguous, `padded` elements apart.
struct Room {
  void *dy = nullptr, *b = nullptr, *db = nullptr;
  std::int64_t padded = 0;
  void* product = nullptr;
};

/// `by_columns`: the operands are linear's. `transposed`: A is the matrix's transpose.
template <class Format, class View>
Room carve(const Format& a, const View& view, std::int64_t m, std::int64_t k, std::int64_t n,
           bool by_columns, bool transposed, const Gradients& gradients, Carver& carver) {
  Room room{.padded = ceil_div(n, 8) * 8};
  const std::int64_t row = room.padded * size_of(a.dtype());
  const bool rows = by_columns && gradients.dense && needs_rows(a);
  if (by_columns && (gradients.values || rows)) room.dy = carver.take_bytes(m * row);
  if (by_columns && gradients.values) room.b = carver.take_bytes(k * row);
  if (rows) room.db = carver.take_bytes(k * row);
  if (gradients.dense) {
    const std::int64_t bytes = product_workspace(view, !transposed, n, by_columns && !rows);
    room.product = carver.take_bytes(bytes);
  }
  return room;
}

/// to [count, padded] = the transpose of `from`, n rows of `count` elements.
void pack(const detail::DenseView& from, std::int64_t count, std::int64_t n, void* to,
          std::int64_t ld, std::int64_t padded, Stream stream) {
  if (count == 0 || padded == 0) return;
  with_bits_of(from.type, [&]<class U>(U) {
    // Elements are only moved; the kernels of a type of the size do.
    using T = std::conditional_t<sizeof(U) == 2, __half,
                                 std::conditional_t<sizeof(U) == 4, float, double>>;
    launch(pack_columns<T>,
           dim3(grid_x(ceil_div(count, kTileSide)), grid_y(ceil_div(padded, kTileSide))),
           dim3(kTileThreads), 0, stream,
           PackColumnsArgs<T>{.from = static_cast<const T*>(from.data),
                              .stride = from.stride,
                              .n = n,
                              .k = count,
                              .to = static_cast<T*>(to),
                              .ld = ld,
                              .padded = padded});
  });
}

/// A dense operand [rows, n] whose rows are contiguous, as a view.
TensorView rows_of(const detail::DenseView& x, const void* copy, std::int64_t rows, std::int64_t n,
                   std::int64_t padded, Device device) {
  TensorView view = make_view(copy != nullptr ? copy : x.data, x.type, {rows, n});
  view.strides[0] = copy != nullptr ? padded : x.transposed ? 1 : x.stride;
  view.strides[1] = 1;
  view.device = device;
  return view;
}

template <class Format, class View>
void differentiate(const Format& a, const View& view, const detail::BackwardProduct& x,
                   bool transposed, const Gradients& gradients, void* workspace, Stream stream) {
  // A single column of spmm lies as linear's do, but its rows are contiguous all the same.
  const bool by_columns = x.dy.transposed && x.n != 1;
  Carver carver(workspace);
  const Room room = carve(a, view, x.m, x.k, x.n, by_columns, transposed, gradients, carver);
  if (room.dy != nullptr) pack(x.dy, x.m, x.n, room.dy, room.padded, room.padded, stream);
  if (gradients.dense) {
    detail::Product product{
        .b = x.dy, .out = x.db, .m = x.k, .k = x.m, .n = x.n, .accumulate = gradients.accumulate};
    // A single column is one of rows of one element, too.
    if (x.n == 1 && x.dy.transposed) product.b.stride = product.out.stride = 1;
    if (room.db != nullptr) {
      if (gradients.accumulate) {
        pack(x.db, x.k, x.n, room.db, room.padded, room.padded, stream);
      }
      product.b = {room.dy, x.dy.type, room.padded, false};
      product.out = {room.db, x.db.type, room.padded, false};
    }
    multiply_by(view, product, !transposed, room.product, stream);
    if (room.db != nullptr) {
      pack({room.db, x.db.type, room.padded, false}, x.n, x.k, x.db.data, x.db.stride, x.k, stream);
    }
  }
  if (gradients.values) {
    if (room.b != nullptr) pack(x.b, x.k, x.n, room.b, room.padded, room.padded, stream);
    const TensorView y = rows_of(x.dy, room.dy, x.m, x.n, room.padded, a.device());
    const TensorView b = rows_of(x.b, room.b, x.k, x.n, room.padded, a.device());
    sample_at(view, transposed ? b : y, transposed ? y : b, *gradients.values, gradients.accumulate,
              stream);
  }
  if (gradients.bias && x.m > 0) {
    with_element_type(x.dy.type, [&]<class T>(T) {
      launch(row_sums<T>, dim3(grid_x(ceil_div(x.m, 32))), dim3(kRowSumsThreads), 0, stream,
             RowSumsArgs<T>{.x = static_cast<const T*>(x.dy.data),
                            .row = x.dy.transposed ? 1 : x.dy.stride,
                            .column = x.dy.transposed ? x.dy.stride : 1,
                            .m = x.m,
                            .n = x.n,
                            .out = static_cast<T*>(gradients.bias->data),
                            .accumulate = gradients.accumulate});
    });
  }
}

detail::Argument values_of(const Csr& a) { return {"values", a.values()}; }
detail::Argument values_of(const Bsr& a) { return {"blocks", a.blocks()}; }
detail::Argument values_of(const Nm& a) { return {"values", a.values()}; }

template <class Format>
void check_all_apart(const detail::Checker& check, const char* sparse, const Format& a,
                     const char* dense, const Gradients& gradients) {
  if (gradients.dense) detail::check_apart(check, sparse, a, *gradients.dense, dense);
  if (gradients.values) detail::check_apart(check, sparse, a, *gradients.values, "dvalues");
  if (gradients.bias) detail::check_apart(check, sparse, a, *gradients.bias, "dbias");
}

std::int64_t tokens_of(const TensorView& x) {
  std::int64_t n = 1;
  for (int d = 0; d + 1 < x.rank; ++d) n *= x.shape[static_cast<std::size_t>(d)];
  return n;
}

template <class Format>
std::int64_t linear_bytes(const TensorView& dy, const Format& w, const Gradients& gradients) {
  const detail::Checker check("linear_backward", DeviceType::cuda);
  const std::int64_t n = tokens_of(dy);
  Carver carver(nullptr);
  static_cast<void>(
      carve(w, prepared(check, "w", w), w.rows(), w.cols(), n, n != 1, false, gradients, carver));
  return carver.used();
}

template <class Format>
void backward_of_linear(const TensorView& dy, const std::optional<TensorView>& x, const Format& w,
                        const Gradients& gradients, const TensorView& workspace, Stream stream) {
  const detail::Checker check("linear_backward", DeviceType::cuda);
  const detail::BackwardProduct product =
      detail::check_linear_backward(check, dy, x, detail::describe(w), values_of(w), gradients);
  check_all_apart(check, "w", w, "dx", gradients);
  const auto& view = prepared(check, "w", w);
  check.workspace(workspace, w.device(), linear_bytes(dy, w, gradients));
  const DeviceGuard guard(w.device());
  differentiate(w, view, product, false, gradients, workspace.data, stream);
}

template <class Format>
std::int64_t spmm_bytes(const TensorView& dy, const Format& a, const Gradients& gradients,
                        bool transpose_a) {
  const detail::Checker check("spmm_backward", DeviceType::cuda);
  const std::int64_t n = dy.rank == 2 ? dy.shape[1] : 1;
  Carver carver(nullptr);
  static_cast<void>(carve(a, prepared(check, "a", a), transpose_a ? a.cols() : a.rows(),
                          transpose_a ? a.rows() : a.cols(), n, false, transpose_a, gradients,
                          carver));
  return carver.used();
}

template <class Format>
void backward_of_spmm(const TensorView& dy, const Format& a, const std::optional<TensorView>& b,
                      const Gradients& gradients, bool transpose_a, const TensorView& workspace,
                      Stream stream) {
  const detail::Checker check("spmm_backward", DeviceType::cuda);
  const detail::BackwardProduct product = detail::check_spmm_backward(
      check, dy, detail::describe(a), b, values_of(a), transpose_a, gradients);
  check_all_apart(check, "a", a, "db", gradients);
  const auto& view = prepared(check, "a", a);
  check.workspace(workspace, a.device(), spmm_bytes(dy, a, gradients, transpose_a));
  const DeviceGuard guard(a.device());
  differentiate(a, view, product, transpose_a, gradients, workspace.data, stream);
}

}  // namespace

std::int64_t linear_backward_workspace(const TensorView& dy, const Csr& w,
                                       const Gradients& gradients) {
  return linear_bytes(dy, w, gradients);
}

void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Csr& w,
                     const Gradients& gradients, const TensorView& workspace, Stream stream) {
  backward_of_linear(dy, x, w, gradients, workspace, stream);
}

std::int64_t spmm_backward_workspace(const TensorView& dy, const Csr& a, const Gradients& gradients,
                                     bool transpose_a) {
  return spmm_bytes(dy, a, gradients, transpose_a);
}

void spmm_backward(const TensorView& dy, const Csr& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a, const TensorView& workspace,
                   Stream stream) {
  backward_of_spmm(dy, a, b, gradients, transpose_a, workspace, stream);
}

std::int64_t linear_backward_workspace(const TensorView& dy, const Bsr& w,
                                       const Gradients& gradients) {
  return linear_bytes(dy, w, gradients);
}

void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Bsr& w,
                     const Gradients& gradients, const TensorView& workspace, Stream stream) {
  backward_of_linear(dy, x, w, gradients, workspace, stream);
}

std::int64_t spmm_backward_workspace(const TensorView& dy, const Bsr& a, const Gradients& gradients,
                                     bool transpose_a) {
  return spmm_bytes(dy, a, gradients, transpose_a);
}

void spmm_backward(const TensorView& dy, const Bsr& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a, const TensorView& workspace,
                   Stream stream) {
  backward_of_spmm(dy, a, b, gradients, transpose_a, workspace, stream);
}

std::int64_t linear_backward_workspace(const TensorView& dy, const Nm& w,
                                       const Gradients& gradients) {
  return linear_bytes(dy, w, gradients);
}

void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Nm& w,
                     const Gradients& gradients, const TensorView& workspace, Stream stream) {
  backward_of_linear(dy, x, w, gradients, workspace, stream);
}

std::int64_t spmm_backward_workspace(const TensorView& dy, const Nm& a, const Gradients& gradients,
                                     bool transpose_a) {
  return spmm_bytes(dy, a, gradients, transpose_a);
}

void spmm_backward(const TensorView& dy, const Nm& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a, const TensorView& workspace,
                   Stream stream) {
  backward_of_spmm(dy, a, b, gradients, transpose_a, workspace, stream);
}

}  // namespace gossamer::cuda
