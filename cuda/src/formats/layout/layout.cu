#include <algorithm>
#include <limits>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "base/carver.h"
#include "base/kernels/scan.cuh"
#include "base/launch.h"
#include "base/runtime.h"
#include "formats/csr/csr_view.h"
#include "formats/layout/kernels/layout_rows.cuh"
#include "formats/layout/kernels/layout_turn.cuh"
#include "gossamer/cuda.h"
#include "gossamer/detail/layout_checks.h"

namespace gossamer::cuda {
namespace {

using detail::Argument;
using detail::Checker;

const char* op_of(const BlockMask& /*source*/) { return "BlockLayout.from_mask"; }
const char* op_of(const BlockLists& source) { return source.op; }
const char* op_of(const LocalStride& /*source*/) { return "BlockLayout.local_stride"; }
const char* op_of(const WindowGlobal& /*source*/) { return "BlockLayout.window_global"; }
const char* op_of(const PatternTiles& /*source*/) { return "BlockLayout.from_csr"; }
const char* op_of(const Slashes& /*source*/) { return "BlockLayout.vertical_slash"; }
const char* op_of(const Verticals& /*source*/) { return "BlockLayout.vertical_slash"; }

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

/// What a source needs beside the status: the lists of verticals, in order.
struct Lists {
  int* indptr = nullptr;
  int* indices = nullptr;
};

LayoutMaskRows rows_of(const Checker& check, const BlockMask& source, const Lists& /*lists*/) {
  detail::check_layout_source(check, source);
  if (source.mask.shape[3] > 0x7fffffff) {
    check.value_error("mask.shape[3] is " + std::to_string(source.mask.shape[3]) +
                      ", expected less than 2**31");
  }
  return {.data = static_cast<const std::uint8_t*>(source.mask.data),
          .places = places_of(source.mask),
          .cols = static_cast<int>(source.mask.shape[3])};
}

LayoutListRows rows_of(const Checker& check, const BlockLists& source, const Lists& /*lists*/) {
  detail::check_layout_source(check, source);
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

LayoutRuleRows rule_of(LayoutRuleRows::Rule rule, const LayoutShape& shape) {
  LayoutRuleRows rows{};
  rows.rule = rule;
  rows.rows = shape.rows;
  rows.cols = shape.cols;
  return rows;
}

LayoutRuleRows rows_of(const Checker& check, const LocalStride& source, const Lists& /*lists*/) {
  detail::check_layout_source(check, source);
  LayoutRuleRows rows = rule_of(LayoutRuleRows::Rule::local_stride, layout_shape(source));
  rows.local = source.local;
  rows.stride = source.stride;
  rows.head_shift = source.head_shift;
  rows.dense_heads = source.dense_heads;
  return rows;
}

LayoutRuleRows rows_of(const Checker& check, const WindowGlobal& source, const Lists& /*lists*/) {
  detail::check_layout_source(check, source);
  LayoutRuleRows rows = rule_of(LayoutRuleRows::Rule::window, layout_shape(source));
  rows.before = source.before;
  rows.after = source.after;
  rows.random = source.random;
  rows.seed = source.seed;
  rows.causal = source.causal;
  if (source.random > kMostRandomBlocks) {
    check.not_implemented("random is " + std::to_string(source.random) + ", expected at most " +
                          std::to_string(kMostRandomBlocks) + " on a GPU");
  }
  std::vector<std::int64_t> globals = source.globals;
  std::sort(globals.begin(), globals.end());
  for (const std::int64_t g : globals) {
    const int last = rows.ranges > 0 ? rows.ends[rows.ranges - 1] : -1;
    if (g <= last) {  // behind the range, or repeated
      rows.ends[rows.ranges - 1] = std::max(last, static_cast<int>(g + 1));
      continue;
    }
    if (rows.ranges == kMostGlobalRanges) {
      check.not_implemented("globals has more than " + std::to_string(kMostGlobalRanges) +
                            " ranges, expected fewer on a GPU");
    }
    rows.begins[rows.ranges] = static_cast<int>(g);
    rows.ends[rows.ranges++] = static_cast<int>(g + 1);
  }
  return rows;
}

LayoutRuleRows rows_of(const Checker& check, const Slashes& source, const Lists& /*lists*/) {
  detail::check_layout_source(check, source);
  LayoutRuleRows rows = rule_of(LayoutRuleRows::Rule::slashes, layout_shape(source));
  rows.distances = integers(source.slashes);
  const TensorView& x = source.slashes;
  rows.places = {.heads = x.shape[1],
                 .rows = 1,
                 .batch_stride = x.strides[0],
                 .head_stride = x.strides[1],
                 .row_stride = 0,
                 .stride = x.strides[2]};
  rows.width = static_cast<int>(x.shape[2]);
  rows.tokens = source.tokens;
  rows.bm = source.block.rows;
  rows.bn = source.block.cols;
  return rows;
}

LayoutTileRows rows_of(const Checker& check, const PatternTiles& source, const Lists& /*lists*/) {
  const std::int64_t tokens = detail::check_layout_source(check, source);
  require_int(check, "pattern", source.indices.dtype, source.indptr.shape[0] - 1, source.columns);
  for (const auto& [name, side] :
       {std::pair{"block[0]", source.block.rows}, std::pair{"block[1]", source.block.cols}}) {
    if (side <= std::numeric_limits<std::int32_t>::max()) continue;
    check.value_error(std::string(name) + " is " + std::to_string(side) +
                      ", expected less than 2**31");
  }
  return {.indptr = static_cast<const int*>(source.indptr.data),
          .indices = static_cast<const int*>(source.indices.data),
          .columns = source.columns,
          .tokens = tokens,
          .rows = layout_shape(source).rows,
          .bm = source.block.rows,
          .bn = source.block.cols};
}

/// The columns of verticals as a list for each head.
BlockLists lists_of(const Verticals& source) {
  TensorView view = source.columns;
  view.rank = 4;
  view.shape = {view.shape[0], view.shape[1], 1, view.shape[2]};
  view.strides = {view.strides[0], view.strides[1], 0, view.strides[2]};
  return {.counts = std::nullopt,
          .indices = view,
          .cols = source.tokens,
          .op = "BlockLayout.vertical_slash"};
}

LayoutVerticalRows rows_of(const Checker& check, const Verticals& source, const Lists& lists) {
  detail::check_layout_source(check, source);
  const BlockLayout& slashes = *source.slashes;
  return {.list_indptr = lists.indptr,
          .lists = lists.indices,
          .slash_indptr = static_cast<const int*>(slashes.indptr().data),
          .slashes = static_cast<const int*>(slashes.indices().data),
          .rows = slashes.shape().rows,
          .tokens = source.tokens,
          .bm = slashes.block().rows,
          .bn = slashes.block().cols};
}

/// Device of a source's arrays; nothing for one that has none.
template <class Source>
std::optional<Device> device_of(const Source& /*source*/) {
  return std::nullopt;
}
std::optional<Device> device_of(const BlockMask& source) { return source.mask.device; }
std::optional<Device> device_of(const BlockLists& source) { return source.indices.device; }
std::optional<Device> device_of(const PatternTiles& source) { return source.indptr.device; }
std::optional<Device> device_of(const Slashes& source) { return source.slashes.device; }
std::optional<Device> device_of(const Verticals& source) { return source.columns.device; }

template <class Source>
void refuse(const Checker& /*check*/, const Source& /*source*/, std::uint64_t /*error*/,
            Stream /*stream*/) {}
void refuse(const Checker& /*check*/, const Slashes& source, std::uint64_t error, Stream stream) {
  const auto at = static_cast<std::int64_t>(error / 2);
  const TensorView& x = source.slashes;
  const std::int64_t head = at / x.shape[2];
  const std::int64_t place = head / x.shape[1] * x.strides[0] + head % x.shape[1] * x.strides[1] +
                             at % x.shape[2] * x.strides[2];
  detail::refuse_token("slashes", read_integer(x, place, stream), source.tokens);
}
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

dim3 warps_for(std::int64_t rows) { return dim3(grid_x(ceil_div(rows, kLayoutWarps))); }
constexpr dim3 kThreads(32 * kLayoutWarps);

template <class Rows>
void count_rows(const Rows& from, std::int64_t rows, int* indptr, LayoutStatus* status,
                Stream stream) {
  fill_zero(indptr, sizeof(int), stream);
  if (rows == 0) return;
  launch(layout_count_rows<Rows>, warps_for(rows), kThreads, 0, stream, from, rows, indptr + 1,
         status);
  launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, indptr + 1,
         static_cast<int>(rows));
}

void clear(LayoutStatus* status, Stream stream) {
  fill_zero(status, sizeof(LayoutStatus), stream);
  fill_ones(&status->error, sizeof(status->error), stream);
}

/// The parts of a workspace.
struct Parts {
  LayoutStatus* status;
  int* bit_ends;
  Lists lists;
};

template <class Source>
Parts carve(const Source& source, Carver& carver) {
  Parts parts{.status = carver.take<LayoutStatus>(1), .bit_ends = nullptr, .lists = {}};
  if constexpr (std::is_same_v<Source, PatternTiles>) {
    parts.bit_ends = carver.take<int>(layout_shape(source).all_rows());
  } else if constexpr (std::is_same_v<Source, Verticals>) {
    const TensorView& x = source.columns;
    parts.lists.indptr = carver.take<int>(x.shape[0] * x.shape[1] + 1);
    parts.lists.indices = carver.take<int>(x.numel());
  }
  return parts;
}

/// Queues what sorts the lists of verticals; other sources have none.
template <class Source>
void prepare(const Checker& check, const Source& source, const Parts& parts, Stream stream) {
  if constexpr (std::is_same_v<Source, Verticals>) {
    const BlockLists lists = lists_of(source);
    const LayoutListRows from = rows_of(check, lists, {});
    const std::int64_t heads = lists.indices.shape[0] * lists.indices.shape[1];
    count_rows(from, heads, parts.lists.indptr, parts.status, stream);
    if (heads == 0) return;
    launch(layout_fill_rows<LayoutListRows>, warps_for(heads), kThreads, 0, stream, from, heads,
           static_cast<const int*>(parts.lists.indptr),
           LayoutFilled{.indices = parts.lists.indices, .kinds = nullptr, .bit_counts = nullptr});
    fill_zero(&parts.status->total, sizeof(parts.status->total), stream);
  }
}

template <class Source>
void check_device(const Checker& check, const Source& source, const TensorView& indptr) {
  const std::optional<Device> device = device_of(source);
  if (device) check.device({"indptr", indptr}, *device, "the source");
}

template <class Source>
LayoutCount count(const Source& source, const TensorView& indptr, const TensorView& workspace,
                  Stream stream) {
  const Checker check(op_of(source), DeviceType::cuda);
  Carver carver(workspace.data);
  static_cast<void>(rows_of(check, source, {}));  // its checks come first
  const std::int64_t rows = detail::check_layout_rows(layout_shape(source), indptr);
  check_device(check, source, indptr);
  check.workspace(workspace, indptr.device, layout_workspace(source));
  const Parts parts = carve(source, carver);
  const DeviceGuard guard(indptr.device);
  require_waiting(stream, op_of(source), "the number of blocks");
  clear(parts.status, stream);
  prepare(check, source, parts, stream);
  count_rows(rows_of(check, source, parts.lists), rows, static_cast<int*>(indptr.data),
             parts.status, stream);
  LayoutStatus found{};
  copy_to_host(&found, parts.status, sizeof(found), stream);
  if (found.error != ~0ull) {
    if constexpr (std::is_same_v<Source, Verticals>) {
      const BlockLists lists = lists_of(source);
      const auto at = static_cast<std::int64_t>(found.error / 2);
      const std::int64_t n = lists.indices.shape[3];
      const LayoutPlaces places = places_of(lists.indices);
      detail::refuse_token(
          "columns",
          read_integer(lists.indices, places.at(at / n) + at % n * places.stride, stream),
          source.tokens);
    } else {
      refuse(check, source, found.error, stream);
    }
  }
  detail::check_layout_blocks(static_cast<std::int64_t>(found.total));
  return {.blocks = static_cast<std::int64_t>(found.total),
          .bits = static_cast<std::int64_t>(found.bits)};
}

void check_filled(const Checker& check, const Argument& array, DType dtype, const char* name,
                  std::int64_t blocks, const TensorView& indptr) {
  check.dtype(array, dtype, name);
  check.rank(array, {array.view.rank == 3 ? 3 : 1});
  if (blocks >= 0) check.extent(array, 0, blocks, "indices.shape[0]");
  check.device(array, indptr.device, "indptr");
  check.contiguous(array);
  check.writable(array, {{"indptr", indptr}});
}

template <class Source>
void fill(const Source& source, const LayoutArrays& arrays, const TensorView& workspace,
          Stream stream) {
  const Checker check(op_of(source), DeviceType::cuda);
  Carver carver(workspace.data);
  static_cast<void>(rows_of(check, source, {}));
  const TensorView& indptr = arrays.indptr;
  const std::int64_t rows = detail::check_layout_rows(layout_shape(source), indptr);
  check_device(check, source, indptr);
  check_filled(check, {"indices", arrays.indices}, DType::i32, "int32", -1, indptr);
  const std::int64_t blocks = arrays.indices.shape[0];
  if (arrays.kinds)
    check_filled(check, {"kinds", *arrays.kinds}, DType::u8, "uint8", blocks, indptr);
  if (arrays.bits) check_filled(check, {"bits", *arrays.bits}, DType::u8, "uint8", -1, indptr);
  check.workspace(workspace, indptr.device, layout_workspace(source));
  if (blocks == 0) return;
  const Parts parts = carve(source, carver);
  const DeviceGuard guard(indptr.device);
  clear(parts.status, stream);
  prepare(check, source, parts, stream);
  const auto from = rows_of(check, source, parts.lists);
  using Rows = std::remove_const_t<decltype(from)>;
  const auto* pointers = static_cast<const int*>(indptr.data);
  const LayoutFilled to{
      .indices = static_cast<int*>(arrays.indices.data),
      .kinds = arrays.kinds ? static_cast<std::uint8_t*>(arrays.kinds->data) : nullptr,
      .bit_counts = parts.bit_ends};
  launch(layout_fill_rows<Rows>, warps_for(rows), kThreads, 0, stream, from, rows, pointers, to);
  if constexpr (std::is_same_v<Source, PatternTiles>) {
    if (!arrays.bits || !arrays.kinds) return;
    check.shape({"bits", *arrays.bits},
                {arrays.bits->shape[0], source.block.rows, (source.block.cols + 7) / 8});
    launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, parts.bit_ends,
           static_cast<int>(rows));
    launch(layout_fill_bits, warps_for(rows), kThreads, 0, stream, from, rows, pointers, to,
           static_cast<std::uint8_t*>(arrays.bits->data), arrays.bits->shape[0]);
  }
}

constexpr int kBlockThreads = 256;

dim3 threads_for(std::int64_t blocks) { return dim3(grid_x(ceil_div(blocks, kBlockThreads))); }

bool has_bits(const BlockLayout& layout) {
  return layout.kinds() && layout.bits() && layout.bits()->shape[0] > 0;
}

/// The number of each block with bits, in `places` [nblocks].
void number_bits(const std::uint8_t* kinds, std::int64_t blocks, int* places, Stream stream) {
  launch(layout_mark_kinds, threads_for(blocks), dim3(kBlockThreads), 0, stream, kinds, blocks,
         places);
  launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, places, static_cast<int>(blocks));
}

/// The arrays of a layout; where it has bits, queues what numbers them.
LayoutBlocks blocks_of(const BlockLayout& layout, int* places, Stream stream) {
  LayoutBlocks blocks{
      .indptr = static_cast<const int*>(layout.indptr().data),
      .indices = static_cast<const int*>(layout.indices().data),
      .kinds = layout.kinds() ? static_cast<const std::uint8_t*>(layout.kinds()->data) : nullptr,
      .bits = nullptr,
      .places = nullptr,
      .rows = layout.shape().rows,
      .cols = layout.shape().cols,
      .bm = layout.block().rows,
      .bn = layout.block().cols};
  if (!has_bits(layout)) return blocks;
  blocks.bits = static_cast<const std::uint8_t*>(layout.bits()->data);
  blocks.places = places;
  number_bits(blocks.kinds, layout.nblocks(), places, stream);
  return blocks;
}

struct TurnParts {
  CsrView joined;
  int *columns, *entries, *places, *turned_places;
  void* scratch;
};

TurnParts carve_turn(const BlockLayout& layout, Carver& carver) {
  const std::int64_t n = layout.nblocks();
  const LayoutShape& shape = layout.shape();
  TurnParts parts{};
  parts.columns = carver.take<int>(n);
  parts.joined = {.indptr = static_cast<const int*>(layout.indptr().data),
                  .indices = parts.columns,
                  .values = nullptr,
                  .dtype = DType::f32,
                  .rows = shape.all_rows(),
                  .cols = shape.batch * shape.heads * shape.cols,
                  .nnz = n};
  parts.entries = carver.take<int>(n);
  parts.places = carver.take<int>(has_bits(layout) ? n : 0);
  parts.turned_places = carver.take<int>(has_bits(layout) ? n : 0);
  parts.scratch = carver.take_bytes(n > 0 ? transpose_workspace(parts.joined) : 0);
  return parts;
}

}  // namespace

std::int64_t layout_workspace(const LayoutSource& source) {
  Carver carver(nullptr);
  std::visit([&](const auto& one) { return carve(one, carver); }, source);
  return carver.used();
}

LayoutCount layout_count(const LayoutSource& source, const TensorView& indptr,
                         const TensorView& workspace, Stream stream) {
  return std::visit([&](const auto& one) { return count(one, indptr, workspace, stream); }, source);
}

void layout_fill(const LayoutSource& source, const LayoutArrays& arrays,
                 const TensorView& workspace, Stream stream) {
  std::visit([&](const auto& one) { fill(one, arrays, workspace, stream); }, source);
}

std::int64_t layout_transpose_workspace(const BlockLayout& layout) {
  Carver carver(nullptr);
  static_cast<void>(carve_turn(layout, carver));
  return carver.used();
}

void layout_transpose(const BlockLayout& layout, const LayoutArrays& arrays,
                      const TensorView& workspace, Stream stream) {
  const Checker check("BlockLayout.transpose", DeviceType::cuda);
  const LayoutShape& shape = layout.shape();
  const std::int64_t n = layout.nblocks();
  const TensorView& indptr = arrays.indptr;
  const std::int64_t rows = detail::check_layout_rows(
      {.batch = shape.batch, .heads = shape.heads, .rows = shape.cols, .cols = shape.rows}, indptr);
  check.device({"indptr", indptr}, layout.device(), "the layout");
  check_filled(check, {"indices", arrays.indices}, DType::i32, "int32", n, indptr);
  if (arrays.kinds) check_filled(check, {"kinds", *arrays.kinds}, DType::u8, "uint8", n, indptr);
  if (arrays.bits) {
    check_filled(check, {"bits", *arrays.bits}, DType::u8, "uint8", -1, indptr);
    check.shape({"bits", *arrays.bits}, {layout.bits() ? layout.bits()->shape[0] : 0,
                                         layout.block().cols, (layout.block().rows + 7) / 8});
  }
  check.workspace(workspace, layout.device(), layout_transpose_workspace(layout));
  const DeviceGuard guard(layout.device());
  if (n == 0) {
    fill_zero(indptr.data, (rows + 1) * static_cast<std::int64_t>(sizeof(int)), stream);
    return;
  }
  Carver carver(workspace.data);
  const TurnParts parts = carve_turn(layout, carver);
  const LayoutBlocks from = blocks_of(layout, parts.places, stream);
  launch(layout_join_heads, warps_for(shape.all_rows()), kThreads, 0, stream, from,
         shape.all_rows(), parts.columns);
  auto* const indices = static_cast<int*>(arrays.indices.data);
  transpose(parts.joined,
            {.indptr = static_cast<int*>(indptr.data),
             .indices = indices,
             .values = nullptr,
             .permutation = parts.entries},
            parts.scratch, stream);
  const LayoutFilled to{.indices = indices,
                        .kinds = arrays.kinds && from.kinds != nullptr
                                     ? static_cast<std::uint8_t*>(arrays.kinds->data)
                                     : nullptr,
                        .bit_counts = nullptr};
  launch(layout_part_heads, threads_for(n), dim3(kBlockThreads), 0, stream, from,
         static_cast<const int*>(parts.entries), n, to);
  if (!arrays.bits || from.places == nullptr || to.kinds == nullptr) return;
  number_bits(to.kinds, n, parts.turned_places, stream);
  launch(layout_turn_bits, warps_for(n), kThreads, 0, stream, from,
         static_cast<const int*>(parts.entries), static_cast<const std::uint8_t*>(to.kinds),
         static_cast<const int*>(parts.turned_places), n,
         static_cast<std::uint8_t*>(arrays.bits->data));
}

std::int64_t layout_to_mask_workspace(const BlockLayout& layout) {
  return has_bits(layout) ? layout.nblocks() * static_cast<std::int64_t>(sizeof(int)) : 0;
}

void layout_to_mask(const BlockLayout& layout, const TensorView& mask, const TensorView& workspace,
                    Stream stream) {
  const Checker check("BlockLayout.to_mask", DeviceType::cuda);
  const bool elements = detail::check_layout_to_mask(check, layout, mask);
  check.workspace(workspace, layout.device(), layout_to_mask_workspace(layout));
  const DeviceGuard guard(layout.device());
  fill_zero(mask.data, mask.numel(), stream);
  if (layout.nblocks() == 0) return;
  const LayoutBlocks from = blocks_of(layout, static_cast<int*>(workspace.data), stream);
  const std::int64_t rows = layout.shape().all_rows();
  launch(layout_write_mask, warps_for(rows), kThreads, 0, stream, from, rows, elements,
         static_cast<std::uint8_t*>(mask.data));
}

}  // namespace gossamer::cuda
