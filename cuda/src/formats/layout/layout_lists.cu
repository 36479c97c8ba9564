#include <string>
#include <type_traits>

#include "base/kernels/scan.cuh"
#include "base/launch.h"
#include "base/runtime.h"
#include "formats/layout/kernels/layout_rows.cuh"
#include "gossamer/cuda.h"
#include "gossamer/detail/layout_checks.h"

namespace gossamer::cuda {
namespace {

using detail::Checker;

const char* op_of(const BlockMask& /*source*/) { return "BlockLayout.from_mask"; }
const char* op_of(const BlockLists& source) { return source.op; }

LayoutShape shape_of(const TensorView& x, std::int64_t cols) {
  return {.batch = x.shape[0], .heads = x.shape[1], .rows = x.shape[2], .cols = cols};
}
LayoutShape shape_of(const BlockMask& source) {
  return shape_of(source.mask, source.mask.shape[3]);
}
LayoutShape shape_of(const BlockLists& source) { return shape_of(source.indices, source.cols); }

LayoutPlaces places_of(const TensorView& x) {
  const auto& s = x.strides;
  return {.heads = x.shape[1],
          .rows = x.shape[2],
          .batch_stride = s[0],
          .head_stride = s[1],
          .row_stride = s[2],
          .stride = x.rank > 3 ? s[3] : 1};
}

LayoutIntegers integers(const TensorView& x) {
  return {.data = x.data, .wide = x.dtype == DType::i64};
}

LayoutMaskRows rows_of(const Checker& check, const BlockMask& source) {
  if (source.mask.shape[3] > 0x7fffffff) {
    check.value_error("mask.shape[3] is " + std::to_string(source.mask.shape[3]) +
                      ", expected less than 2**31");
  }
  return {.data = static_cast<const std::uint8_t*>(source.mask.data),
          .places = places_of(source.mask),
          .cols = static_cast<int>(source.mask.shape[3])};
}

LayoutListRows rows_of(const Checker& check, const BlockLists& source) {
  if (source.indices.shape[3] > kMostListed) {
    check.not_implemented("indices.shape[-1] is " + std::to_string(source.indices.shape[3]) +
                          ", expected at most " + std::to_string(kMostListed) + " on a GPU");
  }
  LayoutListRows rows{.indices = integers(source.indices),
                      .counts = {},
                      .places = places_of(source.indices),
                      .count_places = {},
                      .width = static_cast<int>(source.indices.shape[3]),
                      .cols = static_cast<int>(source.cols)};
  if (source.counts) {
    rows.counts = integers(*source.counts);
    rows.count_places = places_of(*source.counts);
  }
  return rows;
}

std::int64_t read_integer(const TensorView& x, std::int64_t offset, Stream stream) {
  if (x.dtype == DType::i64) {
    std::int64_t value = 0;
    copy_to_host(&value, static_cast<const std::int64_t*>(x.data) + offset, sizeof(value), stream);
    return value;
  }
  std::int32_t value = 0;
  copy_to_host(&value, static_cast<const std::int32_t*>(x.data) + offset, sizeof(value), stream);
  return value;
}

void refuse(const Checker& /*check*/, const BlockMask& /*source*/, std::uint64_t /*error*/,
            Stream /*stream*/) {}
void refuse(const Checker& check, const BlockLists& source, std::uint64_t error, Stream stream) {
  const auto at = static_cast<std::int64_t>(error / 2);
  if (error % 2 != 0) {
    const std::int64_t place = places_of(*source.counts).at(at);
    detail::refuse_count(check, source, read_integer(*source.counts, place, stream));
  }
  const std::int64_t n = source.indices.shape[3];
  const LayoutPlaces places = places_of(source.indices);
  const std::int64_t place = places.at(at / n) + at % n * places.stride;
  detail::refuse_column(check, source, read_integer(source.indices, place, stream));
}

template <class Source>
std::int64_t count(const Source& source, const TensorView& indptr, const TensorView& workspace,
                   Stream stream) {
  const Checker check(op_of(source), DeviceType::cuda);
  detail::check_layout_source(check, source);
  const auto from = rows_of(check, source);
  const std::int64_t rows = detail::check_layout_rows(shape_of(source), indptr);
  check.workspace(workspace, indptr.device, layout_count_workspace());
  const DeviceGuard guard(indptr.device);
  require_waiting(stream, op_of(source), "the number of blocks");
  fill_zero(indptr.data, sizeof(int), stream);
  auto* const status = static_cast<LayoutStatus*>(workspace.data);
  fill_ones(&status->error, sizeof(status->error), stream);
  fill_zero(&status->total, sizeof(status->total), stream);
  if (rows > 0) {
    int* const counts = static_cast<int*>(indptr.data) + 1;
    launch(layout_count_rows<std::remove_const_t<decltype(from)>>,
           dim3(grid_x(ceil_div(rows, kLayoutWarps))), dim3(32 * kLayoutWarps), 0, stream, from,
           rows, counts, status);
    launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, counts, static_cast<int>(rows));
  }
  LayoutStatus found{};
  copy_to_host(&found, status, sizeof(found), stream);
  if (found.error != ~0ull) refuse(check, source, found.error, stream);
  detail::check_layout_blocks(static_cast<std::int64_t>(found.total));
  return static_cast<std::int64_t>(found.total);
}

template <class Source>
void fill(const Source& source, const TensorView& indptr, const TensorView& indices,
          Stream stream) {
  const Checker check(op_of(source), DeviceType::cuda);
  detail::check_layout_source(check, source);
  const auto from = rows_of(check, source);
  const std::int64_t rows = detail::check_layout_rows(shape_of(source), indptr);
  check.dtype({"indices", indices}, DType::i32, "int32");
  check.rank({"indices", indices}, {1});
  check.device({"indices", indices}, indptr.device, "indptr");
  check.contiguous({"indices", indices});
  check.writable({"indices", indices}, {{"indptr", indptr}});
  if (indices.numel() == 0) return;
  const DeviceGuard guard(indptr.device);
  launch(layout_fill_rows<std::remove_const_t<decltype(from)>>,
         dim3(grid_x(ceil_div(rows, kLayoutWarps))), dim3(32 * kLayoutWarps), 0, stream, from, rows,
         static_cast<const int*>(indptr.data), static_cast<int*>(indices.data));
}

}  // namespace

std::int64_t layout_count_workspace() { return sizeof(LayoutStatus); }

std::int64_t layout_count(const BlockMask& source, const TensorView& indptr,
                          const TensorView& workspace, Stream stream) {
  return count(source, indptr, workspace, stream);
}
std::int64_t layout_count(const BlockLists& source, const TensorView& indptr,
                          const TensorView& workspace, Stream stream) {
  return count(source, indptr, workspace, stream);
}

void layout_fill(const BlockMask& source, const TensorView& indptr, const TensorView& indices,
                 Stream stream) {
  fill(source, indptr, indices, stream);
}
void layout_fill(const BlockLists& source, const TensorView& indptr, const TensorView& indices,
                 Stream stream) {
  fill(source, indptr, indices, stream);
}

}  // namespace gossamer::cuda
