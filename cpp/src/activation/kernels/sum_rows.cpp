// Weighted sums of some rows of a matrix that memory delivers. Four rows at a time, a cache line of
// each after the other, are added to the sums of up to four tokens, which stay in the cache. Of
// 16-bit types, lines further on are asked for meanwhile: near the end of the rows, the first of
// the next four.

#include "activation/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int kRows = 4, kTokens = 4;

/// How many bytes ahead lines are asked for, 0 for not at all. One thread of a Zen 5 read float32
/// at 36 GB/s without and 31 with it, bfloat16, whose conversion fills the pipeline, at 20 and 32.
template <class S>
constexpr std::int64_t kAhead = sizeof(S) == 2 ? 2048 : 0;

/// R rows and those that come after them.
template <class S, int R>
struct Rows {
  const S* at[R];
  const S* next[R];

  GOSSAMER_INLINE void prefetch(std::int64_t c, std::int64_t cols) const {
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(c < cols ? at[r] + c : next[r] + (c - cols));
    }
  }
};

template <class T, class S, int N, int R>
GOSSAMER_INLINE void add(const SumRowsArgs& args, const Rows<S, R>& rows, const T* weights, T* sums,
                         bool first) {
  constexpr int W = kLanes<T>;
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(S));
  constexpr std::int64_t ahead = kAhead<S> / static_cast<std::int64_t>(sizeof(S));
  T weight[N][R];
  for (int t = 0; t < N; ++t) {
    for (int r = 0; r < R; ++r) weight[t][r] = weights[t * args.weights_stride + r];
  }
  const auto vector = [&](auto&& from, auto&& load_sum, auto&& store_sum) {
    Vec<T> row[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) row[r] = from(rows.at[r]);
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) {
      T* to = sums + t * args.ld;
      Vec<T> sum = first ? Vec<T>{} : load_sum(to);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum += row[r] * weight[t][r];
      store_sum(to, sum);
    }
  };
  const auto whole = [&](std::int64_t c) {
    vector([&](const S* p) { return load_real<W>(p + c); },
           [&](const T* p) { return load<W>(p + c); }, [&](T* p, Vec<T> v) { store<W>(p + c, v); });
  };
  std::int64_t c = 0;
  for (; c + kLine <= args.cols; c += kLine) {
    if constexpr (ahead > 0) rows.prefetch(c + ahead, args.cols);
    for (std::int64_t v = 0; v < kLine; v += W) whole(c + v);
  }
  for (; c + W <= args.cols; c += W) whole(c);
  if (const auto left = static_cast<int>(args.cols - c); left > 0) {
    vector([&](const S* p) { return load_first<W>(p + c, left); },
           [&](const T* p) { return load_first<W>(p + c, left); },
           [&](T* p, Vec<T> v) { store_first<W>(p + c, v, left); });
  }
}

/// Adds the rows i, …, i + R - 1 of the list to the sums of all tokens.
template <class T, class S, int R>
GOSSAMER_INLINE void add_rows(const SumRowsArgs& args, std::int64_t i) {
  Rows<S, R> rows;
  for (int r = 0; r < R; ++r) {
    const std::int64_t next = min_i64(i + R + r, args.count - 1);
    rows.at[r] = static_cast<const S*>(args.table) + args.rows[i + r] * args.stride;
    rows.next[r] = static_cast<const S*>(args.table) + args.rows[next] * args.stride;
  }
  const bool first = i == 0 && !args.accumulate;
  const T* weights = static_cast<const T*>(args.weights) + i;
  T* sums = static_cast<T*>(args.sums);
  const auto tokens = [&](auto n, std::int64_t t) {
    add<T, S, decltype(n)::value, R>(args, rows, weights + t * args.weights_stride,
                                     sums + t * args.ld, first);
  };
  std::int64_t t = 0;
  for (; t + kTokens <= args.tokens; t += kTokens) tokens(Int<kTokens>{}, t);
  if (args.tokens - t == 3) tokens(Int<3>{}, t);
  if (args.tokens - t == 2) tokens(Int<2>{}, t);
  if (args.tokens - t == 1) tokens(Int<1>{}, t);
}

template <class T, class S>
void sum(const SumRowsArgs& args) {
  if (args.count == 0 && !args.accumulate) {
    for (std::int64_t t = 0; t < args.tokens; ++t) {
      T* sums = static_cast<T*>(args.sums) + t * args.ld;
      for (std::int64_t c = 0; c < args.cols; ++c) sums[c] = 0;
    }
  }
  std::int64_t i = 0;
  for (; i + kRows <= args.count; i += kRows) add_rows<T, S, kRows>(args, i);
  for (; i < args.count; ++i) add_rows<T, S, 1>(args, i);
}

}  // namespace

void sum_rows(const SumRowsArgs& a);
void sum_rows(const SumRowsArgs& a) {
  with_float_type(a.type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    if constexpr (sizeof(S) == 8) {
      sum<double, S>(a);
    } else {
      sum<float, S>(a);
    }
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
