// One column range of C = Aᵀ · B: rows of A in order, each row of B held in registers while the row's
// entries add their multiples of it to rows of the C tile, which the caller sizes to L1.

#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

template <class T, int Tile, class P, class I>
void scatter(const SpmmScatterArgs& a) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  const P* begin = static_cast<const P*>(a.begin);
  const P* end = static_cast<const P*>(a.end);
  const I* indices = static_cast<const I*>(a.indices);
  const T* b = static_cast<const T*>(a.b);
  T* c = static_cast<T*>(a.c) - a.col0 * Tile;
  for (std::int64_t i = 0; i < a.rows; ++i, b += a.ldb) {
    if (begin[i] == end[i]) continue;
    Vec<T, W> row[J];
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) row[j] = load<W>(b + j * W);
    for_values<T>(a.values, a.value_type, begin[i], end[i],
                  [&](const T* values, std::int64_t p, std::int64_t n) {
                    for (std::int64_t k = 0; k < n; ++k) {
                      T* to = c + static_cast<std::int64_t>(indices[p + k]) * Tile;
                      const Vec<T, W> value = broadcast<W>(values[k]);
#pragma GCC unroll 16
                      for (int j = 0; j < J; ++j) {
                        store<W>(to + j * W, load<W>(to + j * W) + value * row[j]);
                      }
                    }
                  });
  }
}

template <class T, class P, class I>
void scatter_vector(const SpmmScatterArgs& a) {
  const P* begin = static_cast<const P*>(a.begin);
  const P* end = static_cast<const P*>(a.end);
  const I* indices = static_cast<const I*>(a.indices);
  const T* b = static_cast<const T*>(a.b);
  T* c = static_cast<T*>(a.c) - a.col0;
  for (std::int64_t i = 0; i < a.rows; ++i, b += a.ldb) {
    const T x = *b;
    for_values<T>(a.values, a.value_type, begin[i], end[i],
                  [&](const T* values, std::int64_t p, std::int64_t n) {
                    const I* to = indices + p;
                    std::int64_t k = 0;
                    // A row's columns differ, so that four updates may overlap.
                    for (; k + 4 <= n; k += 4) {
                      const T c0 = c[to[k]] + values[k] * x, c1 = c[to[k + 1]] + values[k + 1] * x;
                      const T c2 = c[to[k + 2]] + values[k + 2] * x;
                      const T c3 = c[to[k + 3]] + values[k + 3] * x;
                      c[to[k]] = c0;
                      c[to[k + 1]] = c1;
                      c[to[k + 2]] = c2;
                      c[to[k + 3]] = c3;
                    }
                    for (; k < n; ++k) c[to[k]] += values[k] * x;
                  });
  }
}

}  // namespace

void spmm_scatter(const SpmmScatterArgs& a);
void spmm_scatter(const SpmmScatterArgs& a) {
  with_index_kind(a.kind, [&](auto pointer, auto index) {
    using P = typename decltype(pointer)::type;
    using I = typename decltype(index)::type;
    if (a.tile == 1) {
      if (a.f64) {
        scatter_vector<double, P, I>(a);
      } else {
        scatter_vector<float, P, I>(a);
      }
      return;
    }
    with_tile(a.tile, [&](auto tile) {
      constexpr int kTile = decltype(tile)::value;
      if (a.f64) {
        scatter<double, kTile, P, I>(a);
      } else {
        scatter<float, kTile, P, I>(a);
      }
    });
  });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
