#include <limits>
#include <string>

#include "base/kernels/scan.cuh"
#include "base/kernels/total_count.cuh"
#include "base/launch.h"
#include "base/runtime.h"
#include "formats/csr/csr_marks.h"
#include "formats/csr/csr_view.h"
#include "formats/csr/kernels/convert_indices.cuh"
#include "formats/csr/kernels/csr_dense.cuh"
#include "gossamer/cuda.h"
#include "gossamer/detail/format_checks.h"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kMostEntries = std::numeric_limits<int>::max();

DenseToCsrArgs dense_args(const detail::Checker& check, const TensorView& w,
                          const std::optional<TensorView>& mask, const TensorView& indptr) {
  require_int(check, w, indptr);
  return {.values = w.data,
          .stride = row_stride(w),
          .mask = mask ? static_cast<const std::uint8_t*>(mask->data) : nullptr,
          .mask_stride = mask ? row_stride(*mask) : 0,
          .rows = static_cast<int>(w.shape[0]),
          .cols = static_cast<int>(w.shape[1]),
          .indptr = static_cast<int*>(indptr.data),
          .indices = nullptr,
          .out = nullptr};
}

bool shares_rows(const DenseToCsrArgs& a) { return a.cols > kSharedRowColumns; }

dim3 dense_grid(const DenseToCsrArgs& a) {
  return dim3(grid_x(shares_rows(a) ? a.rows : ceil_div(a.rows, kDenseWarps)));
}

template <class S>
void count_rows(const DenseToCsrArgs& a, Stream stream) {
  launch(shares_rows(a) ? csr_count_rows<S, kDenseWarps> : csr_count_rows<S, 1>, dense_grid(a),
         dim3(kDenseThreads), 0, stream, a);
}

template <class U, bool masked>
void fill_rows(const DenseToCsrArgs& a, Stream stream) {
  launch(shares_rows(a) ? csr_fill_rows<U, masked, kDenseWarps> : csr_fill_rows<U, masked, 1>,
         dense_grid(a), dim3(kDenseThreads), 0, stream, a);
}

/// Turns the counts in indptr into their prefix sums, and waits for the total.
std::int64_t add_up(const detail::Checker& check, const DenseToCsrArgs& args, std::int64_t* total,
                    const char* noun, Stream stream) {
  if (may_overflow(args.rows, args.cols)) {
    launch(total_count, dim3(1), dim3(kTotalThreads), 0, stream, args.indptr + 1, args.rows, total);
    std::int64_t count = 0;
    copy_to_host(&count, total, sizeof(count), stream);
    if (count > kMostEntries) {
      check.value_error("w has " + std::to_string(count) + " " + noun +
                        " to keep, expected at most " + std::to_string(kMostEntries) +
                        " for int32 indices");
    }
  }
  launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, args.indptr + 1, args.rows);
  int count = 0;
  copy_to_host(&count, args.indptr + args.rows, sizeof(count), stream);
  return count;
}

DenseToCsrArgs marks_args(const Marks& marks, int* indptr, int* indices) {
  return {.values = marks.data,
          .stride = marks.cols,
          .mask = marks.data,
          .mask_stride = marks.cols,
          .rows = marks.rows,
          .cols = marks.cols,
          .indptr = indptr,
          .indices = indices,
          .out = nullptr};
}

}  // namespace

std::int64_t count_marks(const detail::Checker& check, const Marks& marks, int* indptr,
                         std::int64_t* total, const char* noun, Stream stream) {
  const DenseToCsrArgs args = marks_args(marks, indptr, nullptr);
  count_rows<std::uint8_t>(args, stream);
  return add_up(check, args, total, noun, stream);
}

void sum_marks(const Marks& marks, int* indptr, Stream stream) {
  if (marks.rows == 0) return fill_zero(indptr, sizeof(int), stream);
  count_rows<std::uint8_t>(marks_args(marks, indptr, nullptr), stream);
  launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, indptr + 1, marks.rows);
}

void fill_marks(const Marks& marks, int* indptr, int* indices, Stream stream) {
  fill_rows<std::uint8_t, false>(marks_args(marks, indptr, indices), stream);
}

std::int64_t csr_count_workspace(const TensorView& w) {
  return may_overflow(w.shape[0], w.shape[1]) ? static_cast<std::int64_t>(sizeof(std::int64_t)) : 0;
}

std::int64_t csr_count(const TensorView& w, const std::optional<TensorView>& mask,
                       const TensorView& indptr, const TensorView& workspace, Stream stream) {
  const detail::Checker check("CSR.from_dense", DeviceType::cuda);
  detail::check_csr_count(check, w, mask, indptr);
  check.workspace(workspace, w.device, csr_count_workspace(w));
  const DenseToCsrArgs args = dense_args(check, w, mask, indptr);
  const DeviceGuard guard(w.device);
  require_waiting(stream, "CSR.from_dense", "the number of entries");
  if (args.rows == 0) {
    fill_zero(indptr.data, sizeof(int), stream);
    return 0;
  }
  if (mask) {
    count_rows<std::uint8_t>(args, stream);
  } else {
    with_bits_of(w.dtype, [&]<class U>(U) { count_rows<U>(args, stream); });
  }
  return add_up(check, args, static_cast<std::int64_t*>(workspace.data), "entries", stream);
}

void csr_fill(const TensorView& w, const std::optional<TensorView>& mask, const TensorView& indptr,
              const TensorView& indices, const TensorView& values, Stream stream) {
  const detail::Checker check("CSR.from_dense", DeviceType::cuda);
  detail::check_csr_fill(check, w, mask, indptr, indices, values);
  DenseToCsrArgs args = dense_args(check, w, mask, indptr);
  if (indices.shape[0] == 0) return;
  args.indices = static_cast<int*>(indices.data);
  args.out = values.data;
  const DeviceGuard guard(w.device);
  with_bits_of(w.dtype, [&]<class U>(U) {
    mask ? fill_rows<U, true>(args, stream) : fill_rows<U, false>(args, stream);
  });
}

void csr_to_dense(const Csr& a, const TensorView& out, Stream stream) {
  const detail::Checker check("CSR.to_dense", DeviceType::cuda);
  detail::check_csr_to_dense(check, a, out);
  const CsrView view = view_of(check, "a", a);
  if (view.rows == 0 || view.cols == 0) return;
  const CsrToDenseArgs args{.indptr = view.indptr,
                            .indices = view.indices,
                            .values = view.values,
                            .rows = static_cast<int>(view.rows),
                            .cols = static_cast<int>(view.cols),
                            .out = out.data,
                            .stride = row_stride(out)};
  const dim3 grid(grid_x(ceil_div(view.rows, kDenseWarps)),
                  grid_y(ceil_div(view.cols, kDenseColumns)));
  const DeviceGuard guard(a.device());
  with_bits_of(view.dtype, [&]<class U>(U) {
    launch(csr_to_dense_rows<U>, grid, dim3(kDenseThreads), 0, stream, args);
  });
}

std::int64_t csr_transpose_workspace(const Csr& a) {
  return transpose_workspace(view_of(detail::Checker("CSR.transpose", DeviceType::cuda), "a", a));
}

void csr_transpose(const Csr& a, const TensorView& indptr, const TensorView& indices,
                   const std::optional<TensorView>& values,
                   const std::optional<TensorView>& permutation, const TensorView& workspace,
                   Stream stream) {
  const detail::Checker check("CSR.transpose", DeviceType::cuda);
  detail::check_csr_transpose(check, a, indptr, indices, values, permutation);
  const CsrView view = view_of(check, "a", a);
  check.workspace(workspace, a.device(), transpose_workspace(view));
  const DeviceGuard guard(a.device());
  transpose(view,
            {.indptr = static_cast<int*>(indptr.data),
             .indices = static_cast<int*>(indices.data),
             .values = values ? values->data : nullptr,
             .permutation = permutation ? static_cast<int*>(permutation->data) : nullptr},
            workspace.data, stream);
}

void convert_indices(const TensorView& from, const TensorView& to, Stream stream) {
  detail::check_convert_indices(detail::Checker("convert_indices", DeviceType::cuda), from, to);
  const std::int64_t size = from.shape[0];
  if (size == 0) return;
  const DeviceGuard guard(from.device);
  if (from.dtype == to.dtype) return copy(to.data, from.data, size * size_of(from.dtype), stream);
  const auto blocks = static_cast<unsigned>((size + kConvertThreads - 1) / kConvertThreads);
  if (from.dtype == DType::i64) {
    launch(convert_each<std::int64_t, std::int32_t>, dim3(blocks), dim3(kConvertThreads), 0, stream,
           static_cast<const std::int64_t*>(from.data), static_cast<std::int32_t*>(to.data), size);
  } else {
    launch(convert_each<std::int32_t, std::int64_t>, dim3(blocks), dim3(kConvertThreads), 0, stream,
           static_cast<const std::int32_t*>(from.data), static_cast<std::int64_t*>(to.data), size);
  }
}

}  // namespace gossamer::cuda
