#include "products/column_cuts.h"

#include <algorithm>

#include "base/cut.h"

namespace gossamer::detail {
namespace {

template <class P, class I>
void cut(const RowsView& a, std::int64_t width, std::int64_t ranges, P* out) {
  const auto* indptr = static_cast<const P*>(a.indptr);
  const auto* indices = static_cast<const I*>(a.indices);
  const RowRanges pieces =
      cut_rows(a.pointers(), a.rows, {.pieces = std::int64_t{4} * num_threads()});
  const auto one_row = [&](std::int64_t row) {
    const I* p = indices + indptr[row];
    const I* end = indices + indptr[row + 1];
    out[row] = indptr[row];
    for (std::int64_t q = 1; q < ranges; ++q) {
      if (end - p > 16 * (ranges - q + 1)) {
        p = std::lower_bound(p, end, q * width,
                             [](I index, std::int64_t bound) { return index < bound; });
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
