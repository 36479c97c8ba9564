// Lines of an N:M matrix times a tile of B, whose rows that a part of a line meets stay in L1. The
// positions of the part are unpacked to offsets; then each value is broadcast and multiplied by a
// row of the tile, with the sums in registers. Every line takes the same number of steps.

#include "products/args.h"
#include "simd/positions.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr std::int64_t kAhead = 8;  // lines whose values and positions are prefetched

/// c (+)= Σ_s values[s]·(row of b at offsets[s]).
template <class T, int Tile>
void line(const std::uint32_t* offsets, const T* values, int count, const char* b, T* c,
          bool accumulate) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  // Eight independent sums hide the latency of the addition.
  constexpr int S = J <= 2 ? 4 : J <= 4 ? 2 : 1;
  Vec<T, W> sum[S][J] = {};
  if (accumulate) {
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) sum[0][j] = load<W>(c + j * W);
  }
  const auto row_of = [&](int s) {
    const char* row = b + offsets[s];
    asm("" : "+r"(row));  // in one register: Intel splits instructions whose address is a sum
    return reinterpret_cast<const T*>(row);
  };
  constexpr int U = kVectorBytes == 64 ? 16 : S;
  int s = 0;
  for (; s + U <= count; s += U) {
#pragma GCC unroll 16
    for (int u = 0; u < U; ++u) {
      const T* from = row_of(s + u);
      const Vec<T, W> value = broadcast<W>(values[s + u]);
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) sum[u % S][j] += value * load<W>(from + j * W);
    }
  }
  for (; s < count; ++s) {
    const T* from = row_of(s);
    const Vec<T, W> value = broadcast<W>(values[s]);
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) sum[0][j] += value * load<W>(from + j * W);
  }
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) {
    Vec<T, W> total = sum[0][j];
    if constexpr (S == 2) total = total + sum[1][j];
    if constexpr (S == 4) total = (total + sum[1][j]) + (sum[2][j] + sum[3][j]);
    store<W>(c + j * W, total);
  }
}

/// to[0, count) = values [first, first + count), which take 16 bits each.
__attribute__((noinline)) void convert(const NmLines& a, std::int64_t first, int count, float* to) {
  with_float_type(a.value_type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    if constexpr (sizeof(S) == 2) {
      constexpr int W = kLanes<float>;
      const S* from = static_cast<const S*>(a.values) + first;
      int i = 0;
      for (; i + W <= count; i += W) store<W>(to + i, load_real<W>(from + i));
      for (; i < count; ++i) to[i] = to_float(from[i]);
    }
  });
}

template <class T>
using Line = void (*)(const std::uint32_t* offsets, const T* values, int count, const char* b, T* c,
                      bool accumulate);

template <class T, int Bits>
void lines(const NmTileArgs& a, Line<T> line) {
  const auto row = static_cast<std::uint32_t>(a.tile) * static_cast<std::uint32_t>(sizeof(T));
  const auto count = static_cast<int>(a.slot1 - a.slot0);
  alignas(64) std::uint32_t base[kMostSlots], offsets[2][kMostSlots];
  alignas(64) T converted[kMostSlots];
  for (int s = 0; s < count; ++s) {
    base[s] = static_cast<std::uint32_t>(s / a.a.n * a.a.m) * row;
  }
  const std::int64_t size = sizeof(T) == 8 ? 8 : a.a.value_type == DType::f32 ? 4 : 2;
  const auto* b = static_cast<const char*>(a.b);
  T* c = static_cast<T*>(a.c);
  const auto indices_of = [&](std::int64_t l, std::int64_t slot) {
    return a.a.indices + l * a.a.index_bytes + slot * Bits / 8;
  };
  // The offsets of a line are unpacked before the line above it is multiplied, which takes longer.
  if (a.line0 < a.line1) {
    read_offsets<Bits>(indices_of(a.line0, a.slot0), count, base, row, offsets[a.line0 % 2]);
  }
  for (std::int64_t l = a.line0; l < a.line1; ++l, c += a.tile) {
    // Lines are far apart, which no hardware prefetcher expects, and mostly a power of two: those
    // of a whole part would evict one another.
    const bool same = l + kAhead < a.line1;
    const std::int64_t ahead = same ? l + kAhead : l + kAhead - (a.line1 - a.line0);
    const std::int64_t slot = same ? a.slot0 : a.slot1;
    const char* next = static_cast<const char*>(a.a.values) + (ahead * a.a.slots + slot) * size;
    prefetch(next, count * size);
    prefetch(indices_of(ahead, slot), (count * Bits + 7) / 8);
    if (l + 1 < a.line1) {
      read_offsets<Bits>(indices_of(l + 1, a.slot0), count, base, row, offsets[(l + 1) % 2]);
    }
    const std::int64_t first = l * a.a.slots + a.slot0;
    const T* values = converted;
    if (size == std::int64_t{sizeof(T)}) {
      values = static_cast<const T*>(a.a.values) + first;
    } else if constexpr (sizeof(T) == 4) {
      convert(a.a, first, count, converted);
    }
    line(offsets[l % 2], values, count, b, c, a.accumulate);
  }
}

template <class T>
Line<T> line_of(int tile) {
  // As wide as the registers hold: vectors of 64 bytes come with 32 of them.
  if constexpr (kVectorBytes == 64) {
    if (tile == 128) return line<T, 128>;
  }
  Line<T> found = nullptr;
  with_tile(tile, [&](auto width) { found = line<T, decltype(width)::value>; });
  return found;
}

template <class T>
void tiles(const NmTileArgs& a) {
  with_bits(a.a.bits, [&](auto bits) { lines<T, decltype(bits)::value>(a, line_of<T>(a.tile)); });
}

}  // namespace

void nm_tile(const NmTileArgs& a);
void nm_tile(const NmTileArgs& a) { a.f64 ? tiles<double>(a) : tiles<float>(a); }

}  // namespace gossamer::detail::GOSSAMER_LEVEL
