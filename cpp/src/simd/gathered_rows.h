#pragma once

// A list of rows of a matrix, each named by an index: their dot products with one vector, and their
// weighted sum. Rows are read where they lie, in their stored type; nothing is read behind them.

#include "simd/simd.h"

namespace gossamer::detail {
namespace {

/// The rows indices[0], …, indices[n-1], `stride` elements apart. While row e is read, row
/// indices[e + kAhead] is asked for in the second-level cache, for the first `ahead` of them: few
/// lines at a time, since the processor waits where many are under way.
template <class S>
struct RowList {
  static constexpr std::int64_t kAhead = 32;

  const std::int32_t* indices;
  std::int64_t n;
  const S* data;
  std::int64_t stride;
  std::int64_t ahead = 0;

  GOSSAMER_INLINE const S* row(std::int64_t e) const {
    return data + std::int64_t{indices[e]} * stride;
  }
  GOSSAMER_INLINE void ask(std::int64_t e, std::int64_t at, std::int64_t count) const {
    if (e >= ahead) return;
    const auto* from = reinterpret_cast<const char*>(row(e + kAhead) + at);
    const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(S));
    for (std::int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(from + line, 0, 2);
  }
};

/// Dot products of four rows with `own`; D is the depth in vectors where it is known at compile
/// time, else 0.
template <class T, int D, class S>
GOSSAMER_INLINE Vec<T, 4> four_dots(const T* own, const S* const (&from)[4], std::int64_t depth) {
  constexpr int W = kLanes<T>;
  Vec<T> sum[4] = {};
  if constexpr (D != 0) {
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) {
      const Vec<T> x = load<W>(own + d * W);
      for (int e = 0; e < 4; ++e) sum[e] += x * load_real<W>(from[e] + d * W);
    }
  } else {
    std::int64_t d = 0;
    for (; d + W <= depth; d += W) {
      const Vec<T> x = load<W>(own + d);
      for (int e = 0; e < 4; ++e) sum[e] += x * load_real<W>(from[e] + d);
    }
    if (const int left = static_cast<int>(depth - d); left != 0) {
      const Vec<T> x = load_first<W>(own + d, left);
      for (int e = 0; e < 4; ++e) sum[e] += x * load_first<W>(from[e] + d, left);
    }
  }
  return sum_lanes4<T, W>(sum);
}

template <class T, int D, class S>
GOSSAMER_INLINE void dots_of(const RowList<S>& list, const T* own, std::int64_t depth, T* out) {
  for (std::int64_t e = 0; e < list.n; e += 4) {
    // Where fewer than four are left, the last is repeated: every row is summed in the same order.
    const std::int64_t last = list.n - 1;
    const S* const from[4] = {list.row(e), list.row(min_i64(e + 1, last)),
                              list.row(min_i64(e + 2, last)), list.row(min_i64(e + 3, last))};
    for (std::int64_t i = e; i < e + 4; ++i) list.ask(i, 0, D != 0 ? D * kLanes<T> : depth);
    store<4>(out + e, four_dots<T, D>(own, from, depth));
  }
}

/// out[e] = ⟨own, row e⟩ for the rows of a list. `out` has room for three more.
template <class T, class S>
GOSSAMER_INLINE void row_dots(const RowList<S>& list, const T* own, std::int64_t depth, T* out) {
  if (depth == 64) {
    dots_of<T, 64 / kLanes<T>>(list, own, depth, out);
  } else {
    dots_of<T, 0>(list, own, depth, out);
  }
}

/// J vectors of the sum, from column `at` on. Two chains of sums hide the latency of additions.
template <int J, class T, class S>
GOSSAMER_INLINE void add_vectors(const RowList<S>& list, const T* weights, T factor,
                                 std::int64_t at, T* sums) {
  constexpr int W = kLanes<T>;
  Vec<T> even[J], odd[J] = {};
  for (int j = 0; j < J; ++j) {
    even[j] = factor == 0 ? Vec<T>{} : load<W>(sums + at + j * W) * factor;
  }
  std::int64_t e = 0;
  for (; e + 2 <= list.n; e += 2) {
    const S* first = list.row(e) + at;
    const S* second = list.row(e + 1) + at;
    const Vec<T> x = broadcast<W>(weights[e]), y = broadcast<W>(weights[e + 1]);
    list.ask(e, at, J * W);
    list.ask(e + 1, at, J * W);
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      even[j] += x * load_real<W>(first + j * W);
      odd[j] += y * load_real<W>(second + j * W);
    }
  }
  if (e < list.n) {
    list.ask(e, at, J * W);
    const Vec<T> x = broadcast<W>(weights[e]);
    for (int j = 0; j < J; ++j) even[j] += x * load_real<W>(list.row(e) + at + j * W);
  }
  for (int j = 0; j < J; ++j) store<W>(sums + at + j * W, even[j] + odd[j]);
}

/// sums[d] = factor·sums[d] + Σ weights[e]·row_e[d] for d < width; with factor 0, sums is not read.
template <class T, class S>
GOSSAMER_INLINE void add_rows(const RowList<S>& list, const T* weights, T factor,
                              std::int64_t width, T* sums) {
  constexpr int W = kLanes<T>;
  std::int64_t at = 0;
  for (; at + 4 * W <= width; at += 4 * W) add_vectors<4>(list, weights, factor, at, sums);
  for (; at + W <= width; at += W) add_vectors<1>(list, weights, factor, at, sums);
  const int left = static_cast<int>(width - at);
  if (left == 0) return;
  Vec<T> sum = factor == 0 ? Vec<T>{} : load_first<W>(sums + at, left) * factor;
  for (std::int64_t e = 0; e < list.n; ++e) {
    sum += broadcast<W>(weights[e]) * load_first<W>(list.row(e) + at, left);
  }
  store_first<W>(sums + at, sum, left);
}

}  // namespace
}  // namespace gossamer::detail
