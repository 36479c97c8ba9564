// Sums over the rows and columns of a graph's matrix: gathers, bound by memory.

#include "graph/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

template <class I>
void edges(const EdgeScoreArgs& args) {
  const I* indptr = static_cast<const I*>(args.indptr);
  const I* indices = static_cast<const I*>(args.indices);
  for (std::int64_t i = args.row0; i < args.row1; ++i) {
    const std::int64_t begin = indptr[i], end = indptr[i + 1];
    if (args.scores == nullptr) {
      float sum = 0;
      for (std::int64_t p = begin; p < end; ++p) sum += args.root[indices[p]];
      const auto degree = static_cast<float>(end - begin);
      args.near[i] = end > begin ? sum / (degree * degree) : 0.0f;
      continue;
    }
    for (std::int64_t p = begin; p < end; ++p) {
      const auto j = static_cast<std::int64_t>(indices[p]);
      args.scores[p] = i == j ? __builtin_inff() : args.near[i] * args.near[j];
    }
  }
}

template <class I, class S>
void rows_of(const RowStrengthArgs& args) {
  const I* indptr = static_cast<const I*>(args.indptr);
  const S* values = static_cast<const S*>(args.values);
  for (std::int64_t i = args.row0; i < args.row1; ++i) {
    double sum = 0;
    for (std::int64_t p = indptr[i]; p < indptr[i + 1]; ++p) {
      const auto v = static_cast<double>(to_float(values[p]));
      sum += v < 0 ? -v : v;
    }
    args.sums[i] = sum;
  }
}

template <class I, class S>
void columns_of(const ColumnStrengthArgs& args) {
  const I* indices = static_cast<const I*>(args.indices);
  const S* values = static_cast<const S*>(args.values);
  for (std::int64_t p = args.begin; p < args.end; ++p) {
    const auto v = static_cast<double>(to_float(values[p]));
    args.sums[indices[p]] += v < 0 ? -v : v;
  }
}

}  // namespace

void edge_score(const EdgeScoreArgs& args);
void edge_score(const EdgeScoreArgs& args) {
  args.wide ? edges<std::int64_t>(args) : edges<std::int32_t>(args);
}

void row_strength(const RowStrengthArgs& args);
void row_strength(const RowStrengthArgs& args) {
  with_float_type(args.type, [&](auto type) {
    using S = typename decltype(type)::type;
    args.wide ? rows_of<std::int64_t, S>(args) : rows_of<std::int32_t, S>(args);
  });
}

void column_strength(const ColumnStrengthArgs& args);
void column_strength(const ColumnStrengthArgs& args) {
  with_float_type(args.type, [&](auto type) {
    using S = typename decltype(type)::type;
    args.wide ? columns_of<std::int64_t, S>(args) : columns_of<std::int32_t, S>(args);
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
