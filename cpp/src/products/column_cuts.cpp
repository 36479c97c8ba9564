#include "products/column_cuts.h"

#include "base/cut.h"

namespace gossamer::detail {
namespace {

/// The first of [p, end), at least one, that is not below the bound. Each step is a choice of an
/// address, not a branch, which nothing could predict; so the searches of a row overlap.
template <class I>
const I* first_from(const I* p, const I* end, std::int64_t bound) {
  for (std::int64_t n = end - p; n > 1;) {
    const std::int64_t half = n / 2;
    p += (p[half - 1] < bound ? half : 0);
    n -= half;
  }
  return p + (*p < bound ? 1 : 0);
}

template <class P, class I>
void cut(const RowsView& a, std::int64_t width, std::int64_t ranges, P* out) {
  const auto* indptr = static_cast<const P*>(a.indptr);
  const auto* indices = static_cast<const I*>(a.indices);
  const RowRanges pieces =
      cut_rows(a.pointers(), a.rows, {.pieces = std::int64_t{4} * num_threads()});
  const auto one_row = [&](std::int64_t row) {
    const I* begin = indices + indptr[row];
    const I* end = indices + indptr[row + 1];
    const bool many = end - begin > 16 * ranges;
    const I* p = begin;
    out[row] = indptr[row];
    for (std::int64_t q = 1; q < ranges; ++q) {
      if (many) {
        p = first_from(begin, end, q * width);
      } else {
        while (p < end && *p < q * width) ++p;
      }
      out[q * a.rows + row] = static_cast<P>(p - indices);
    }
    out[ranges * a.rows + row] = indptr[row + 1];
  };
  for_ranges(pieces, static_cast<double>(a.nnz), [&](std::int64_t row0, std::int64_t row1) {
    for (std::int64_t row = row0; row < row1; ++row) one_row(row);
  });
}

}  // namespace

void cut_columns(const RowsView& a, std::int64_t width, std::int64_t ranges, void* cuts) {
  switch (a.kind) {
    case IndexKind::i32_u16:
      return cut<std::int32_t, std::uint16_t>(a, width, ranges, static_cast<std::int32_t*>(cuts));
    case IndexKind::i32_i32:
      return cut<std::int32_t, std::int32_t>(a, width, ranges, static_cast<std::int32_t*>(cuts));
    case IndexKind::i64_i64:
      return cut<std::int64_t, std::int64_t>(a, width, ranges, static_cast<std::int64_t*>(cuts));
  }
}

}  // namespace gossamer::detail
