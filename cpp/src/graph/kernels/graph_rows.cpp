// Measures of sparse patterns: counts of what is there, and sums over a graph's rows. Gathers and
// counts, memory-bound; plain loops that the compiler turns into vectors where they have any.

#include "graph/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Elements whose bits, but for the sign of floating types, are not zero.
template <class U>
std::int64_t nonzeros(const U* x, std::int64_t n, U bits) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < n; i += 1 << 16) {
    const std::int64_t end = min_i64(i + (1 << 16), n);
    std::uint32_t count = 0;
    for (std::int64_t j = i; j < end; ++j) count += (x[j] & bits) != 0 ? 1u : 0u;
    total += count;
  }
  return total;
}

template <class U>
void count_rows(const CountNonzeroArgs& args, U bits) {
  for (std::int64_t r = 0; r < args.rows; ++r) {
    const U* x = static_cast<const U*>(args.x) + r * args.stride;
    if (args.run == 1) {
      for (std::int64_t j = 0; j < args.cols; ++j) args.counts[j] += (x[j] & bits) != 0 ? 1 : 0;
      continue;
    }
    for (std::int64_t j = 0, b = 0; j < args.cols; j += args.run, ++b) {
      args.counts[b] += nonzeros<U>(x + j, min_i64(args.run, args.cols - j), bits);
    }
  }
}

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

void count_nonzero(const CountNonzeroArgs& args);
void count_nonzero(const CountNonzeroArgs& args) {
  switch (args.type) {
    case DType::f64:
      return count_rows<std::uint64_t>(args, ~std::uint64_t{0} >> 1);
    case DType::f32:
      return count_rows<std::uint32_t>(args, ~std::uint32_t{0} >> 1);
    case DType::f16:
    case DType::bf16:
      return count_rows<std::uint16_t>(args, 0x7fff);
    default:
      return count_rows<std::uint8_t>(args, 0xff);
  }
}

void cover(const CoverArgs& args);
void cover(const CoverArgs& args) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < args.size; i += 1 << 16) {
    const std::int64_t end = min_i64(i + (1 << 16), args.size);
    std::uint32_t count = 0;
    for (std::int64_t j = i; j < end; ++j) {
      const bool fired = (args.fired[j] | args.mask[j]) != 0;
      args.fired[j] = fired ? 1 : 0;
      count += fired ? 1u : 0u;
    }
    total += count;
  }
  *args.count = total;
}

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
