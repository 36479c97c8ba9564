// One range of columns of C = Aᵀ · B. Rows of A in order: a row of B is held in registers, and each
// entry of A's row adds its multiple of it to a row of the tile of C, which the caller makes small
// enough for L2.

#include "products/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr std::int64_t kAhead = 8;            // rows that are prefetched
constexpr std::int64_t kAheadOfVector = 512;  // entries that are prefetched

/// c[indices[k]] += values[k]·b, where c and b are rows of a tile. Not inlined, for the same reason
/// as add_scattered.
template <class T, int Tile, class I>
__attribute__((noinline)) void add_multiples(const I* indices, const T* values, std::int64_t n,
                                             const T* b, T* c) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  Vec<T, W> row[J];
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) row[j] = load<W>(b + j * W);
  // The columns of a row are distinct, so U updates can overlap.
  constexpr int U = J <= 2 ? 4 : J <= 4 ? 2 : 1;
  std::int64_t k = 0;
  for (; k + U <= n; k += U) {
    T* to[U];
    Vec<T, W> sum[U][J];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      to[u] = c + static_cast<std::int64_t>(indices[k + u]) * Tile;
      const Vec<T, W> value = broadcast<W>(values[k + u]);
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) sum[u][j] = load<W>(to[u] + j * W) + value * row[j];
    }
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) store<W>(to[u] + j * W, sum[u][j]);
    }
  }
  for (; k < n; ++k) {
    T* to = c + static_cast<std::int64_t>(indices[k]) * Tile;
    const Vec<T, W> value = broadcast<W>(values[k]);
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) store<W>(to + j * W, load<W>(to + j * W) + value * row[j]);
  }
}

GOSSAMER_INLINE void prefetch(const void* begin, const void* end) {
  for (const char* p = static_cast<const char*>(begin); p < static_cast<const char*>(end);
       p += 64) {
    __builtin_prefetch(p, 0, 2);
  }
}

template <class T, int Tile, class P, class I>
void scatter(const SpmmScatterArgs& a) {
  const P* begin = static_cast<const P*>(a.begin);
  const P* end = static_cast<const P*>(a.end);
  const I* indices = static_cast<const I*>(a.indices);
  const T* b = static_cast<const T*>(a.b);
  T* c = static_cast<T*>(a.c) - a.col0 * Tile;
  const std::int64_t value_size = sizeof(T) == 8 ? 8 : a.value_type == DType::f32 ? 4 : 2;
  for (std::int64_t i = 0; i < a.rows; ++i, b += a.ldb) {
    // The next rows' entries lie anywhere in memory, where no hardware prefetcher finds them.
    const std::int64_t ahead = min_i64(i + kAhead, a.rows - 1);
    prefetch(indices + begin[ahead], indices + end[ahead]);
    prefetch(static_cast<const char*>(a.values) + begin[ahead] * value_size,
             static_cast<const char*>(a.values) + end[ahead] * value_size);
    for_values<T>(a.values, a.value_type, begin[i], end[i],
                  [&](const T* values, std::int64_t p, std::int64_t n) {
                    add_multiples<T, Tile>(indices + p, values, n, b, c);
                  });
  }
}

/// Entries [0, Count) of `to` as 64-bit positions. Loads 32-bit ones in pairs, since add_scattered
/// is bound by the number of loads and stores.
template <int Count, class I>
GOSSAMER_INLINE void positions(const I* to, std::uint64_t* place) {
  if constexpr (sizeof(I) == 4) {
#pragma GCC unroll 8
    for (int u = 0; u < Count; u += 2) {
      std::uint64_t pair;
      __builtin_memcpy(&pair, to + u, 8);
      place[u] = pair & 0xffffffffu;
      place[u + 1] = pair >> 32;
    }
  } else {
#pragma GCC unroll 8
    for (int u = 0; u < Count; ++u) place[u] = static_cast<std::uint64_t>(to[u]);
  }
}

/// c[to[k]] += values[k]·x. Not inlined: among the decoding loops the compiler runs out of
/// registers.
template <class T, class I>
__attribute__((noinline)) void add_scattered(const I* to, const T* values, std::int64_t n, T x,
                                             T* c) {
  std::int64_t k = 0;
  // The columns of a row are distinct, so its updates can overlap.
  constexpr int U = 8, W = 16 / static_cast<int>(sizeof(T));
  for (; k + U <= n; k += U) {
    __builtin_prefetch(to + k + kAheadOfVector);
    __builtin_prefetch(values + k + kAheadOfVector);
    T sum[U];
    std::uint64_t place[U];
    positions<U>(to + k, place);
#pragma GCC unroll 8
    for (int u = 0; u < U; u += W) {
      Vec<T, W> value = load<W>(values + k + u);
#if defined(__x86_64__)
      asm("" : "+x"(value));  // keeps the compiler from loading single elements
#endif
#pragma GCC unroll 4
      for (int w = 0; w < W; ++w) sum[u + w] = c[place[u + w]] + value[w] * x;
    }
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) c[place[u]] = sum[u];
  }
  for (; k < n; ++k) c[to[k]] += values[k] * x;
}

template <class T, class P, class I>
void scatter_vector(const SpmmScatterArgs& a) {
  const P* begin = static_cast<const P*>(a.begin);
  const P* end = static_cast<const P*>(a.end);
  const I* indices = static_cast<const I*>(a.indices);
  const T* b = static_cast<const T*>(a.b);
  T* c = static_cast<T*>(a.c) - a.col0;
  for (std::int64_t i = 0; i < a.rows; ++i, b += a.ldb) {
    for_values<T>(a.values, a.value_type, begin[i], end[i],
                  [&](const T* values, std::int64_t p, std::int64_t n) {
                    add_scattered(indices + p, values, n, *b, c);
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

}  // namespace gossamer::detail::GOSSAMER_LEVEL
