// Lines of an N:M matrix times a tile of B, whose rows that a part of a line meets stay in L1. The
// positions of the part are unpacked to offsets; then each value is broadcast and multiplied by a
// row of the tile, with the sums in registers. Every line takes the same number of steps.

#include "products/args.h"
#include "simd/positions.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr std::int64_t kAhead = 4;  // lines whose values are prefetched

template <int W, int J, int S, class T>
GOSSAMER_INLINE void line(const std::uint32_t* offsets, const T* values, int count, const char* b,
                          T* c, bool accumulate) {
  Vec<T, W> sum[S][J] = {};
  int s = 0;
  for (; s + S <= count; s += S) {
#pragma GCC unroll 4
    for (int u = 0; u < S; ++u) {
      const T* from = reinterpret_cast<const T*>(b + offsets[s + u]);
      const Vec<T, W> value = broadcast<W>(values[s + u]);
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) sum[u][j] += value * load<W>(from + j * W);
    }
  }
  for (; s < count; ++s) {
    const T* from = reinterpret_cast<const T*>(b + offsets[s]);
    const Vec<T, W> value = broadcast<W>(values[s]);
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) sum[0][j] += value * load<W>(from + j * W);
  }
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) {
    Vec<T, W> total = sum[0][j];
    if constexpr (S == 2) total = total + sum[1][j];
    if constexpr (S == 4) total = (total + sum[1][j]) + (sum[2][j] + sum[3][j]);
    if (accumulate) total = total + load<W>(c + j * W);
    store<W>(c + j * W, total);
  }
}

template <class T, int Tile>
void lines(const NmTileArgs& a) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  // Eight independent sums hide the latency of the addition.
  constexpr int S = J <= 2 ? 4 : J <= 4 ? 2 : 1;
  constexpr std::uint32_t kRow = Tile * sizeof(T);
  const auto count = static_cast<int>(a.slot1 - a.slot0);
  std::uint32_t base[kMostSlots], offsets[2][kMostSlots];
  for (int s = 0; s < count; ++s) {
    base[s] = static_cast<std::uint32_t>(s / a.a.n * a.a.m) * kRow;
  }
  const std::int64_t size = sizeof(T) == 8 ? 8 : a.a.value_type == DType::f32 ? 4 : 2;
  const auto* b = static_cast<const char*>(a.b);
  T* c = static_cast<T*>(a.c);
  // The offsets of a line are unpacked before the line above it is multiplied, which takes longer.
  const auto unpack = [&](std::int64_t l) {
    const std::uint8_t* indices = a.a.indices + l * a.a.index_bytes;
    read_offsets(a.a.bits, indices + a.slot0 * a.a.bits / 8, indices + a.a.index_bytes, count, base,
                 kRow, offsets[l % 2]);
  };
  if (a.line0 < a.line1) unpack(a.line0);
  for (std::int64_t l = a.line0; l < a.line1; ++l, c += Tile) {
    // Lines are far apart, which no hardware prefetcher expects, and mostly a power of two: those
    // of a whole part would evict one another.
    const bool same = l + kAhead < a.line1;
    const std::int64_t ahead = same ? l + kAhead : l + kAhead - (a.line1 - a.line0);
    const char* next = static_cast<const char*>(a.a.values) +
                       (ahead * a.a.slots + (same ? a.slot0 : a.slot1)) * size;
    for (std::int64_t at = 0; at < count * size; at += 64) __builtin_prefetch(next + at);
    if (l + 1 < a.line1) unpack(l + 1);
    const std::int64_t first = l * a.a.slots + a.slot0;
    for_values<T>(a.a.values, a.a.value_type, first, first + count,
                  [&](const T* values, std::int64_t /*p*/, std::int64_t /*n*/) {
                    line<W, J, S, T>(offsets[l % 2], values, count, b, c, a.accumulate);
                  });
  }
}

template <class T>
void tiles(const NmTileArgs& a) {
  // As wide as the registers hold: vectors of 64 bytes come with 32 of them.
  if constexpr (kVectorBytes == 64) {
    if (a.tile == 128) return lines<T, 128>(a);
  }
  with_tile(a.tile, [&](auto tile) { lines<T, decltype(tile)::value>(a); });
}

}  // namespace

void nm_tile(const NmTileArgs& a);
void nm_tile(const NmTileArgs& a) { a.f64 ? tiles<double>(a) : tiles<float>(a); }

}  // namespace gossamer::detail::GOSSAMER_LEVEL
