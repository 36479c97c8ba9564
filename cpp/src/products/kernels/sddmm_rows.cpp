// Sampled A · Bᵀ. In each row, eight entries at a time share the loads of A's row; each has a
// vector of partial sums, enough to hide the latency of additions, and the lanes of four are added
// together.

#include "products/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

template <int W, class T>
GOSSAMER_INLINE Vec<T, W> load_part(const T* p, int n) {
#if defined(GOSSAMER_AVX512)
  if constexpr (sizeof(T) == 4) {
    return bit_cast<Vec<T, W>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << n) - 1), p));
  } else {
    return bit_cast<Vec<T, W>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1 << n) - 1), p));
  }
#else
  T part[W] = {};
  for (int i = 0; i < n; ++i) part[i] = p[i];
  return load<W>(part);
#endif
}

/// Does a row of A stay in registers for all entries of a row?
template <int D>
constexpr bool kHeld = D != 0 && D <= (kVectorBytes == 64 ? 8 : 4);

/// out[e] = ⟨a, row e of b⟩ for `count` rows, which is all 8 where Fours = 2 and at most 4 where it
/// is 1. The last is repeated where there are fewer, so that every entry is summed in the same
/// order. D is the depth in vectors where it is known at compile time, else 0.
template <class T, class I, int D, int Fours>
GOSSAMER_INLINE void group(const I* indices, int count, const T* a, const Vec<T>* row, const T* b,
                           std::int64_t ldb, std::int64_t depth, T* out) {
  constexpr int W = kLanes<T>, E = 4 * Fours;
  const T* from[E];
#pragma GCC unroll 8
  for (int e = 0; e < E; ++e) {
    from[e] = b + static_cast<std::int64_t>(indices[e < count ? e : count - 1]) * ldb;
  }
  Vec<T> sum[Fours][4] = {};
  const auto add = [&](int e, Vec<T> x, Vec<T> y) __attribute__((always_inline)) {
    sum[e / 4][e % 4] = multiply_add<T>(x, y, sum[e / 4][e % 4]);
  };
  if constexpr (D != 0) {
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) {
      const Vec<T> x = kHeld<D> ? row[d] : load<W>(a + d * W);
#pragma GCC unroll 8
      for (int e = 0; e < E; ++e) add(e, x, load<W>(from[e] + d * W));
    }
  } else {
    std::int64_t d = 0;
    for (; d + W <= depth; d += W) {
      const Vec<T> x = load<W>(a + d);
#pragma GCC unroll 8
      for (int e = 0; e < E; ++e) add(e, x, load<W>(from[e] + d));
    }
    if (const int part = static_cast<int>(depth - d); part != 0) {
      const Vec<T> x = load_part<W>(a + d, part);
#pragma GCC unroll 8
      for (int e = 0; e < E; ++e) add(e, x, load_part<W>(from[e] + d, part));
    }
  }
#pragma GCC unroll 2
  for (int f = 0; f < Fours; ++f) {
    const Vec<T, 4> total = sum_lanes4<T, W>(sum[f]);
    if (Fours == 2 || count == 4) {
      store<4>(out + 4 * f, total);
    } else {
      for (int e = 0; e < count; ++e) out[e] = total[e];
    }
  }
}

template <class T, class P, class I, int D>
void rows_of_depth(const SddmmRowsArgs& args) {
  const P* indptr = static_cast<const P*>(args.indptr);
  const I* indices = static_cast<const I*>(args.indices);
  const T* b = static_cast<const T*>(args.b);
  T* out = static_cast<T*>(args.out);
  const std::int64_t ldb = args.ldb, depth = args.depth, col_end = args.col_end;
  for (std::int64_t i = args.row0; i < args.row1; ++i) {
    const T* a = static_cast<const T*>(args.a) + i * args.lda;
    Vec<T> row[kHeld<D> ? D : 1];
    if constexpr (kHeld<D>) {
      for (int d = 0; d < D; ++d) row[d] = load<kLanes<T>>(a + d * kLanes<T>);
    }
    const std::int64_t end = indptr[i + 1];
    std::int64_t p = args.cursor[i];
    for (; p + 8 <= end && static_cast<std::int64_t>(indices[p + 7]) < col_end; p += 8) {
      group<T, I, D, 2>(indices + p, 8, a, row, b, ldb, depth, out + p);
    }
    if (p + 4 <= end && static_cast<std::int64_t>(indices[p + 3]) < col_end) {
      group<T, I, D, 1>(indices + p, 4, a, row, b, ldb, depth, out + p);
      p += 4;
    }
    int left = 0;
    while (p + left < end && static_cast<std::int64_t>(indices[p + left]) < col_end) ++left;
    if (left > 0) group<T, I, D, 1>(indices + p, left, a, row, b, ldb, depth, out + p);
    args.cursor[i] = p + left;
  }
}

template <class T, class P, class I>
void rows(const SddmmRowsArgs& args) {
  constexpr int W = kLanes<T>;
  if (args.depth == 64) return rows_of_depth<T, P, I, 64 / W>(args);
  if (args.depth == 128) return rows_of_depth<T, P, I, 128 / W>(args);
  rows_of_depth<T, P, I, 0>(args);
}

}  // namespace

void sddmm_rows(const SddmmRowsArgs& a);
void sddmm_rows(const SddmmRowsArgs& a) {
  with_index_kind(a.kind, [&](auto pointer, auto index) {
    using P = typename decltype(pointer)::type;
    using I = typename decltype(index)::type;
    if (a.f64) {
      rows<double, P, I>(a);
    } else {
      rows<float, P, I>(a);
    }
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
