// gather_decode, and gradients of lists of a table's rows. The entries make a CSR matrix [tokens,
// H] that may have a column several times in a row: the values' gradient is its sampled product,
// the table's the product with its transpose.

#include <algorithm>
#include <limits>
#include <string>

#include "activation/kernels/decode.cuh"
#include "base/carver.h"
#include "base/launch.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/activation_checks.h"
#include "products/csr_product.h"
#include "products/sddmm.h"

namespace gossamer::cuda {
namespace {

using detail::Checker;
using detail::Decoding;

DecodeIndices indices_of(const TensorView& indices, std::int64_t count) {
  return {.data = indices.data,
          .wide = indices.dtype == DType::i64,
          .stride = row_stride(indices),
          .k = indices.shape[1],
          .count = count};
}

unsigned blocks_for(std::int64_t threads) {
  return grid_x(std::clamp<std::int64_t>(ceil_div(threads, kDecodeThreads), 1, 1 << 16));
}

/// The bits of a NaN.
template <class U>
U nan_of(DType dtype) {
  if (dtype == DType::f64) return static_cast<U>(0x7ff8000000000000u);
  return static_cast<U>(dtype == DType::f32   ? 0x7fc00000u
                        : dtype == DType::f16 ? 0x7e00u
                                              : 0x7fc0u);
}

/// The entries as a matrix, for the table's gradient that of the valid ones.
struct Room {
  int *indptr, *indices;
  void* values;                // for the table's
  CsrTransposed transposed{};  // likewise
  void *scratch = nullptr, *product = nullptr;
};

CsrView entries_of(const Room& room, std::int64_t tokens, std::int64_t k, std::int64_t rows,
                   DType dtype) {
  return {.indptr = room.indptr,
          .indices = room.indices,
          .values = room.values,
          .dtype = dtype,
          .rows = tokens,
          .cols = rows,
          .nnz = tokens * k};
}

/// The transpose has one row more than the table, for indices that are out of range.
CsrView transposed_of(const Room& room, std::int64_t tokens, std::int64_t k, std::int64_t rows,
                      DType dtype) {
  return {.indptr = room.transposed.indptr,
          .indices = room.transposed.indices,
          .values = room.transposed.values,
          .dtype = dtype,
          .rows = rows,
          .cols = tokens,
          .nnz = tokens * k};
}

Room carve(Carver& carver, std::int64_t tokens, std::int64_t k, const TensorView& table,
           bool of_table) {
  const std::int64_t n = tokens * k, rows = table.shape[0], item = size_of(table.dtype);
  Room room{.indptr = carver.take<int>(tokens + 1),
            .indices = carver.take<int>(n),
            .values = carver.take_bytes(of_table ? n * item : 0)};
  if (!of_table) return room;
  room.transposed = {.indptr = carver.take<int>(rows + 2),
                     .indices = carver.take<int>(n),
                     .values = carver.take_bytes(n * item),
                     .permutation = nullptr};
  const CsrView entries = entries_of(room, tokens, k, rows + 1, table.dtype);
  room.scratch = carver.take_bytes(transpose_workspace(entries, Columns::repeated));
  room.product = carver.take_bytes(
      multiply_workspace(transposed_of(room, tokens, k, rows, table.dtype), table.shape[1], false));
  return room;
}

/// indptr and indices of the entries, `stray` where one is out of range.
void make_pattern(const DecodeIndices& rows, std::int64_t tokens, std::int64_t stray,
                  const Room& room, Stream stream) {
  launch(decode_pattern, dim3(blocks_for(std::max(tokens + 1, tokens * rows.k))),
         dim3(kDecodeThreads), 0, stream,
         DecodePatternArgs{.rows = rows,
                           .tokens = tokens,
                           .stray = static_cast<int>(stray),
                           .indptr = room.indptr,
                           .indices = room.indices});
}

/// Copies values, or marks those that an index out of range has.
void move_values(const DecodeIndices& rows, std::int64_t tokens, const TensorView* from, void* to,
                 DType dtype, Stream stream) {
  with_bits_of(dtype, [&]<class U>(U) {
    launch(
        decode_values<U>, dim3(blocks_for(tokens * rows.k)), dim3(kDecodeThreads), 0, stream,
        DecodeValuesArgs<U>{.rows = rows,
                            .tokens = tokens,
                            .from = from != nullptr ? static_cast<const U*>(from->data) : nullptr,
                            .stride = from != nullptr ? row_stride(*from) : 0,
                            .to = static_cast<U*>(to),
                            .stray = nan_of<U>(dtype)});
  });
}

}  // namespace

void gather_decode(const TensorView& indices, const TensorView& values, const TensorView& table,
                   const TensorView& out, const std::optional<TensorView>& bias, Stream stream) {
  const Checker check("gather_decode", DeviceType::cuda);
  const Decoding all = detail::check_gather_decode(check, indices, values, table, out, bias);
  if (out.numel() == 0) return;
  const DeviceGuard guard(table.device);
  const std::int64_t tokens = all.out.shape[0], cols = table.shape[1];
  with_element_type(table.dtype, [&]<class T>(T) {
    constexpr std::int64_t size = sizeof(T);
    const DecodeSumArgs<T> args{.rows = indices_of(all.indices, table.shape[0]),
                                .values = static_cast<const T*>(all.values.data),
                                .values_stride = row_stride(all.values),
                                .table = static_cast<const T*>(table.data),
                                .stride = row_stride(table),
                                .cols = cols,
                                .wide = aligned(table.data, row_stride(table), size, 16),
                                .bias = bias ? static_cast<const T*>(bias->data) : nullptr,
                                .tokens = tokens,
                                .out = static_cast<T*>(all.out.data),
                                .out_stride = row_stride(all.out),
                                .nan = std::numeric_limits<float>::quiet_NaN()};
    launch(decode_sum<T>, dim3(grid_x(ceil_div(cols, 32 * (16 / size))), grid_y(tokens)),
           dim3(kDecodeThreads), 0, stream, args);
  });
}

std::int64_t gather_decode_backward_workspace(const TensorView& /*dy*/,
                                              const TensorView& /*indices*/,
                                              const TensorView& values, const TensorView& table,
                                              const std::optional<TensorView>& /*dvalues*/,
                                              const std::optional<TensorView>& dtable) {
  const std::int64_t n = values.numel();
  if (values.rank < 1 || table.rank != 2 || n == 0 || n >= std::numeric_limits<int>::max()) {
    return 0;
  }
  const std::int64_t k = values.shape[static_cast<std::size_t>(values.rank - 1)];
  Carver carver(nullptr);
  static_cast<void>(carve(carver, n / k, k, table, dtable.has_value()));
  return carver.used();
}

void gather_decode_backward(const TensorView& dy, const TensorView& indices,
                            const TensorView& values, const TensorView& table,
                            const std::optional<TensorView>& dvalues,
                            const std::optional<TensorView>& dtable, const TensorView& workspace,
                            Stream stream) {
  const Checker check("gather_decode_backward", DeviceType::cuda);
  const Decoding all =
      detail::check_gather_decode_backward(check, dy, indices, values, table, dvalues, dtable);
  const std::int64_t n = values.numel(), height = table.shape[0];
  if (n >= std::numeric_limits<int>::max()) {
    check.not_implemented("indices has " + std::to_string(n) +
                          " entries, expected less than 2**31 - 1 on a GPU");
  }
  check.workspace(workspace, table.device,
                  gather_decode_backward_workspace(dy, indices, values, table, dvalues, dtable));
  const DeviceGuard guard(table.device);
  if (n == 0) {
    if (dtable) fill_zero(dtable->data, dtable->numel() * size_of(dtable->dtype), stream);
    return;
  }
  const std::int64_t tokens = all.values.shape[0], k = all.values.shape[1];
  const DecodeIndices rows = indices_of(all.indices, height);
  Carver carver(workspace.data);
  const Room room = carve(carver, tokens, k, table, dtable.has_value());
  if (dvalues) {
    if (height > 0) {
      make_pattern(rows, tokens, 0, room, stream);
      TensorView flat = *dvalues;
      flat.rank = 1;
      flat.shape[0] = n;
      flat.strides[0] = 1;
      sample(entries_of(room, tokens, k, height, table.dtype), {all.out, table, flat, false},
             stream);
    }
    move_values(rows, tokens, nullptr, dvalues->data, table.dtype, stream);
  }
  if (!dtable || dtable->numel() == 0) return;
  make_pattern(rows, tokens, height, room, stream);
  move_values(rows, tokens, &all.values, room.values, table.dtype, stream);
  transpose(entries_of(room, tokens, k, height + 1, table.dtype), room.transposed, room.scratch,
            stream, Columns::repeated);
  const detail::Product product{.b = {all.out.data, table.dtype, row_stride(all.out), false},
                                .out = {dtable->data, table.dtype, table.shape[1], false},
                                .m = height,
                                .k = tokens,
                                .n = table.shape[1]};
  multiply(transposed_of(room, tokens, k, height, table.dtype), product, room.product, stream);
}

void topk_rows_backward(const TensorView& dy, const TensorView& indices, const TensorView& out,
                        Stream stream) {
  const Checker check("topk_rows_backward", DeviceType::cuda);
  const Decoding all = detail::check_topk_rows_backward(check, dy, indices, out);
  if (out.numel() == 0) return;
  const DeviceGuard guard(out.device);
  const std::int64_t tokens = all.out.shape[0];
  with_bits_of(out.dtype, [&]<class U>(U) {
    const DecodeScatterArgs<U> args{.columns = indices_of(all.indices, all.out.shape[1]),
                                    .tokens = tokens,
                                    .from = static_cast<const U*>(all.values.data),
                                    .stride = row_stride(all.values),
                                    .out = static_cast<U*>(all.out.data),
                                    .out_stride = row_stride(all.out),
                                    .stray = nan_of<U>(out.dtype)};
    launch(decode_scatter<U>, dim3(grid_x(std::min<std::int64_t>(tokens, 1 << 20))),
           dim3(kDecodeThreads), 0, stream, args);
  });
}

}  // namespace gossamer::cuda
