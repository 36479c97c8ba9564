// Some rows of C = Aᵀ · B for lines of an N:M matrix. A row of B is held in registers, and each
// value of the line adds its multiple of it to a row of the tile of C, which stays in L1.

#include "products/args.h"
#include "simd/positions.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// c at offsets[s] += values[s]·b, where c and b are rows of a tile. Not inlined: among the
/// decoding loops the compiler runs out of registers.
template <class T, int Tile>
__attribute__((noinline)) void add_multiples(const std::uint32_t* offsets, const T* values,
                                             int count, const T* b, char* c) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  Vec<T, W> row[J];
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) row[j] = load<W>(b + j * W);
  // The elements of a line are distinct, so U updates can overlap.
  constexpr int U = J <= 2 ? 4 : J <= 4 ? 2 : 1;
  int s = 0;
  for (; s + U <= count; s += U) {
    T* to[U];
    Vec<T, W> sum[U][J];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      to[u] = reinterpret_cast<T*>(c + offsets[s + u]);
      const Vec<T, W> value = broadcast<W>(values[s + u]);
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) sum[u][j] = load<W>(to[u] + j * W) + value * row[j];
    }
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) store<W>(to[u] + j * W, sum[u][j]);
    }
  }
  for (; s < count; ++s) {
    T* to = reinterpret_cast<T*>(c + offsets[s]);
    const Vec<T, W> value = broadcast<W>(values[s]);
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) store<W>(to + j * W, load<W>(to + j * W) + value * row[j]);
  }
}

/// c at offsets[s] += values[s]·x.
template <class T>
__attribute__((noinline)) void add_scattered(const std::uint32_t* offsets, const T* values,
                                             int count, T x, T* c) {
  constexpr int U = 8;
  int s = 0;
  for (; s + U <= count; s += U) {
    T sum[U];
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) sum[u] = c[offsets[s + u]] + values[s + u] * x;
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) c[offsets[s + u]] = sum[u];
  }
  for (; s < count; ++s) c[offsets[s]] += values[s] * x;
}

/// Tile is 1 for a vector.
template <class T, int Tile>
void scatter(const NmScatterArgs& a) {
  // In bytes, but elements of a vector.
  constexpr std::uint32_t kRow = Tile == 1 ? 1 : Tile * sizeof(T);
  // Parts of a line that are whole groups, whose positions begin with a byte.
  const std::int64_t part = kMostSlots / (8 * a.a.n) * (8 * a.a.n);
  std::uint32_t base[kMostSlots], offsets[kMostSlots];
  for (std::int64_t s = 0; s < min_i64(part, a.slot1 - a.slot0); ++s) {
    base[s] = static_cast<std::uint32_t>(s / a.a.n * a.a.m) * kRow;
  }
  const std::int64_t size = sizeof(T) == 8 ? 8 : a.a.value_type == DType::f32 ? 4 : 2;
  const T* b = static_cast<const T*>(a.b);
  for (std::int64_t l = a.line0; l < a.line1; ++l, b += Tile) {
    const std::uint8_t* indices = a.a.indices + l * a.a.index_bytes;
    // Later lines' parts lie where no hardware prefetcher expects them.
    constexpr std::int64_t kAhead = 8;
    const std::int64_t ahead = min_i64(l + kAhead, a.line1 - 1);
    const char* next = static_cast<const char*>(a.a.values) + (ahead * a.a.slots + a.slot0) * size;
    const std::int64_t slots = a.slot1 - a.slot0;
    prefetch(next, slots * size);
    prefetch(a.a.indices + ahead * a.a.index_bytes + a.slot0 * a.a.bits / 8,
             (slots * a.a.bits + 7) / 8);
    T* c = static_cast<T*>(a.c);
    for (std::int64_t slot = a.slot0; slot < a.slot1; slot += part) {
      const auto count = static_cast<int>(min_i64(part, a.slot1 - slot));
      with_bits(a.a.bits, [&](auto bits) {
        constexpr int kBits = decltype(bits)::value;
        read_offsets<kBits>(indices + slot * kBits / 8, count, base, kRow, offsets);
      });
      const std::int64_t first = l * a.a.slots + slot;
      for_values<T>(a.a.values, a.a.value_type, first, first + count,
                    [&](const T* values, std::int64_t /*p*/, std::int64_t /*n*/) {
                      if constexpr (Tile == 1) {
                        add_scattered<T>(offsets, values, count, *b, c);
                      } else {
                        add_multiples<T, Tile>(offsets, values, count, b,
                                               reinterpret_cast<char*>(c));
                      }
                    });
      c += part / a.a.n * a.a.m * Tile;
    }
  }
}

template <class T>
void tiles(const NmScatterArgs& a) {
  if (a.tile == 1) return scatter<T, 1>(a);
  with_tile(a.tile, [&](auto tile) { scatter<T, decltype(tile)::value>(a); });
}

}  // namespace

void nm_scatter(const NmScatterArgs& a);
void nm_scatter(const NmScatterArgs& a) { a.f64 ? tiles<double>(a) : tiles<float>(a); }

}  // namespace gossamer::detail::GOSSAMER_LEVEL
