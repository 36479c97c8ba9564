// Dot products of a few vectors with rows of a matrix that memory delivers. Four rows at a time
// share the loads of the vectors; each pair has a vector of partial sums. Of 16-bit types, lines
// further on are asked for meanwhile: near the end of the rows, the first of the next four.

#include "activation/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int kRows = 4, kTokens = 4;

/// How many bytes ahead lines are asked for, 0 for not at all. One thread of a Zen 5 read float32
/// at 36 GB/s without and 31 with it, bfloat16, whose conversion fills the pipeline, at 20 and 32.
template <class S>
constexpr std::int64_t kAhead = sizeof(S) == 2 ? 2048 : 0;

template <class S>
struct Rows {
  const S* at[kRows];
  const S* next[kRows];
};

template <class T, class S, int N>
GOSSAMER_INLINE void dots(const DotRowsArgs& args, const Rows<S>& rows, int count, const T* x,
                          T* out) {
  constexpr int W = kLanes<T>;
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(S));
  constexpr std::int64_t ahead = kAhead<S> / static_cast<std::int64_t>(sizeof(S));
  Vec<T> sum[N][kRows] = {};
  const auto vector = [&](auto&& from, auto&& from_x) {
    Vec<T> v[N];
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) v[t] = from_x(x + t * args.x_stride);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> row = from(rows.at[r]);
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) sum[t][r] += v[t] * row;
    }
  };
  const auto whole = [&](std::int64_t j) {
    vector([&](const S* p) { return load_real<W>(p + j); },
           [&](const T* p) { return load<W>(p + j); });
  };
  std::int64_t j = 0;
  for (; j + kLine <= args.depth; j += kLine) {
    if constexpr (ahead > 0) {
      const std::int64_t far = j + ahead;
      for (int r = 0; r < kRows; ++r) {
        __builtin_prefetch(far < args.depth ? rows.at[r] + far : rows.next[r] + (far - args.depth));
      }
    }
    for (std::int64_t v = 0; v < kLine; v += W) whole(j + v);
  }
  for (; j + W <= args.depth; j += W) whole(j);
  if (const auto left = static_cast<int>(args.depth - j); left > 0) {
    vector([&](const S* p) { return load_first<W>(p + j, left); },
           [&](const T* p) { return load_first<W>(p + j, left); });
  }
  for (int t = 0; t < N; ++t) {
    const Vec<T, 4> total = sum_lanes4<T, W>(sum[t]);
    for (int r = 0; r < count; ++r) {
      T& to = out[t * args.ld + r];
      to = args.multiply ? to * total[r] : total[r];
    }
  }
}

template <class T, class S>
void all_dots(const DotRowsArgs& args) {
  const auto row = [&](std::int64_t i) {
    // Where fewer than four are left, the last is repeated, so that each is summed in one order.
    const std::int64_t at = min_i64(i, args.count - 1);
    return static_cast<const S*>(args.table) +
           (args.rows != nullptr ? args.rows[at] : at) * args.stride;
  };
  for (std::int64_t i = 0; i < args.count; i += kRows) {
    Rows<S> rows;
    for (int r = 0; r < kRows; ++r) {
      rows.at[r] = row(i + r);
      rows.next[r] = row(i + kRows + r);
    }
    const auto count = static_cast<int>(min_i64(kRows, args.count - i));
    const auto tokens = [&](auto n, std::int64_t t) {
      dots<T, S, decltype(n)::value>(args, rows, count,
                                     static_cast<const T*>(args.x) + t * args.x_stride,
                                     static_cast<T*>(args.dots) + t * args.ld + i);
    };
    std::int64_t t = 0;
    for (; t + kTokens <= args.tokens; t += kTokens) tokens(Int<kTokens>{}, t);
    if (args.tokens - t == 3) tokens(Int<3>{}, t);
    if (args.tokens - t == 2) tokens(Int<2>{}, t);
    if (args.tokens - t == 1) tokens(Int<1>{}, t);
  }
}

}  // namespace

void dot_rows(const DotRowsArgs& a);
void dot_rows(const DotRowsArgs& a) {
  with_float_type(a.type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    if constexpr (sizeof(S) == 8) {
      all_dots<double, S>(a);
    } else {
      all_dots<float, S>(a);
    }
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
