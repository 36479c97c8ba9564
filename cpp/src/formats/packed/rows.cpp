#include "formats/packed/rows.h"

#include <limits>

#include "base/work.h"

namespace gossamer::detail {
namespace {

template <class P, class I>
RowsLayout copy_rows(const RowsView& a, IndexKind kind) {
  const auto size = size_of(a.value_type);
  RowsLayout layout{.shape = shape_of(a),
                    .kind = kind,
                    .indptr = Buffer<std::byte>((a.rows + 1) * std::int64_t{sizeof(P)}),
                    .indices = Buffer<std::byte>(a.nnz * std::int64_t{sizeof(I)}),
                    .values = Buffer<std::byte>(a.nnz * size)};
  P* indptr = reinterpret_cast<P*>(layout.indptr.data());
  I* indices = reinterpret_cast<I*>(layout.indices.data());
  for (std::int64_t i = 0; i <= a.rows; ++i) indptr[i] = static_cast<P>(a.pointer(i));
  constexpr std::int64_t kChunk = std::int64_t{1} << 16;
  parallel_for((a.nnz + kChunk - 1) / kChunk, [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * kChunk, end = std::min(a.nnz, begin + kChunk);
    for (std::int64_t p = begin; p < end; ++p) indices[p] = static_cast<I>(a.index(p));
    std::memcpy(layout.values.data() + begin * size,
                static_cast<const std::byte*>(a.values) + begin * size,
                static_cast<std::size_t>((end - begin) * size));
  });
  return layout;
}

}  // namespace

RowsLayout RowsLayout::make(const RowsView& a, const PackOptions& /*options*/) {
  constexpr std::int64_t kInt32 = std::numeric_limits<std::int32_t>::max();
  if (a.nnz > kInt32 || a.cols > kInt32) {
    return copy_rows<std::int64_t, std::int64_t>(a, IndexKind::i64_i64);
  }
  if (a.cols <= 65536) return copy_rows<std::int32_t, std::uint16_t>(a, IndexKind::i32_u16);
  return copy_rows<std::int32_t, std::int32_t>(a, IndexKind::i32_i32);
}

std::int64_t RowsLayout::bytes() const { return indptr.bytes() + indices.bytes() + values.bytes(); }

OwnedRows RowsLayout::to_rows() const {
  OwnedRows rows(shape);
  const RowsView from = view();
  for (std::int64_t i = 0; i <= shape.rows; ++i) rows.indptr[i] = from.pointer(i);
  for (std::int64_t p = 0; p < shape.nnz; ++p) rows.indices[p] = from.index(p);
  std::copy_n(values.data(), values.bytes(), rows.values.data());
  return rows;
}

void RowsLayout::update(const void* from, const SourcePositions& /*source*/) const {
  constexpr std::int64_t kChunk = std::int64_t{1} << 18;
  for_tasks((values.bytes() + kChunk - 1) / kChunk, move_cost(shape.nnz), [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * kChunk, size = std::min(kChunk, values.bytes() - begin);
    std::memcpy(values.data() + begin, static_cast<const std::byte*>(from) + begin,
                static_cast<std::size_t>(size));
  });
}

RowsView RowsLayout::view() const {
  return {.kind = kind,
          .indptr = indptr.data(),
          .indices = indices.data(),
          .values = values.data(),
          .value_type = shape.dtype,
          .rows = shape.rows,
          .cols = shape.cols,
          .nnz = shape.nnz};
}

}  // namespace gossamer::detail
