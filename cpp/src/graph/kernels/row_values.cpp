// Sums and maxima of rows, and entries scaled by their row and column: one pass over the values, a
// vector at a time where rows are long enough.

#include "graph/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// The larger of the two; NaN where one is.
template <class V>
GOSSAMER_INLINE V larger(V a, V b) {
  return b > a || b != b ? b : a;
}

template <class T, class S>
GOSSAMER_INLINE T sum_of(const S* values, std::int64_t n) {
  constexpr int W = kLanes<T>;
  T sum = 0;
  std::int64_t p = 0;
  if (n >= W) {
    Vec<T> part = {};
    for (; p + W <= n; p += W) part += load_real<W>(values + p);
    for (int i = 0; i < W; ++i) sum += part[i];
  }
  for (; p < n; ++p) sum += to_float(values[p]);
  return sum;
}

template <class T, class S>
GOSSAMER_INLINE T max_of(const S* values, std::int64_t n) {
  constexpr int W = kLanes<T>;
  T most = static_cast<T>(-__builtin_inff());
  std::int64_t p = 0;
  if (n >= W) {
    Vec<T> part = broadcast<W>(most);
    for (; p + W <= n; p += W) {
      const Vec<T> v = load_real<W>(values + p);
      const auto replaces = (v > part) | (v != v);
      part = replaces ? v : part;
    }
    for (int i = 0; i < W; ++i) most = larger<T>(most, part[i]);
  }
  for (; p < n; ++p) most = larger<T>(most, to_float(values[p]));
  return most;
}

template <class I, class S>
void reduce(const RowReduceArgs& args) {
  using T = decltype(to_float(S{}));
  const I* indptr = static_cast<const I*>(args.indptr);
  const S* values = static_cast<const S*>(args.values);
  T* out = static_cast<T*>(args.out);
  for (std::int64_t i = args.row0; i < args.row1; ++i) {
    const std::int64_t begin = indptr[i], n = indptr[i + 1] - begin;
    out[i] = args.largest ? max_of<T>(values + begin, n) : sum_of<T>(values + begin, n);
  }
}

template <class I, class S>
void scale(const ScaleEntriesArgs& args) {
  using T = decltype(to_float(S{}));
  const I* indptr = static_cast<const I*>(args.indptr);
  const I* indices = static_cast<const I*>(args.indices);
  const S* values = static_cast<const S*>(args.values);
  const T* rows = static_cast<const T*>(args.rows);
  const T* cols = static_cast<const T*>(args.cols);
  S* out = static_cast<S*>(args.out);
  for (std::int64_t i = args.row0; i < args.row1; ++i) {
    const T left = rows == nullptr ? T{1} : rows[i];
    for (std::int64_t p = indptr[i]; p < indptr[i + 1]; ++p) {
      T v = values == nullptr ? left : left * to_float(values[p]);
      if (cols != nullptr) v *= cols[indices[p]];
      assign(out[p], v);
    }
  }
}

}  // namespace

void row_reduce(const RowReduceArgs& args);
void row_reduce(const RowReduceArgs& args) {
  with_float_type(args.type, [&](auto type) {
    using S = typename decltype(type)::type;
    args.wide ? reduce<std::int64_t, S>(args) : reduce<std::int32_t, S>(args);
  });
}

void scale_entries(const ScaleEntriesArgs& args);
void scale_entries(const ScaleEntriesArgs& args) {
  with_float_type(args.type, [&](auto type) {
    using S = typename decltype(type)::type;
    args.wide ? scale<std::int64_t, S>(args) : scale<std::int32_t, S>(args);
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
