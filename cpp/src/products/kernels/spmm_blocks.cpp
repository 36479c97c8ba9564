// A block of rows times a block of columns whose tile of B stays in the L1 cache. Segments (the
// entries of one row in the block of columns) are sorted by length, so that the number of
// iterations is predictable, and taken two or four at a time, so that their independent sums hide
// the latency of the addition. The tile of C stays in L2. Values of 16 bits are converted some
// segments ahead, which costs less than converting each where it is broadcast.

#include "products/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int kLongestSegment = 256;  // columns that eight bits can number

template <int R, class T, int Tile>
GOSSAMER_INLINE void segments(const std::uint8_t* indices, const T* values, int length, const T* b,
                              T* const (&c)[R]) {
  constexpr int W = min_int(Tile, kLanes<T>), J = Tile / W;
  Vec<T, W> sum[R][J];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) sum[r][j] = load<W>(c[r] + j * W);
  }
  for (int i = 0; i < length; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const T* from = b + static_cast<std::int64_t>(indices[r * length + i]) * Tile;
      const Vec<T, W> value = broadcast<W>(values[r * length + i]);
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) sum[r][j] += value * load<W>(from + j * W);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) store<W>(c[r] + j * W, sum[r][j]);
  }
}

/// The values of up to `Size` entries at a time as T: those in memory, where they are.
template <class T, class S, int Size>
struct Values {
  const S* next;
  const S* end;
  T part[Size];
  std::int64_t taken = 0, ready = 0;  // of `part`

  // Leaves `part` as it is.
  Values(const S* first, std::int64_t count) : next(first), end(first + count) {}

  /// Those of the next n entries.
  GOSSAMER_INLINE const T* take(std::int64_t n) {
    if (taken + n > ready) convert();
    taken += n;
    return part + taken - n;
  }
  void convert() {
    constexpr int W = kLanes<T>;
    next += taken;
    taken = 0;
    ready = min_i64(Size, end - next);
    std::int64_t i = 0;
    for (; i + W <= ready; i += W) store<W>(part + i, load_real<W>(next + i));
    for (; i < ready; ++i) part[i] = to_float(next[i]);
  }
};
template <class T, int Size>
struct Values<T, T, Size> {
  const T* next;

  Values(const T* first, std::int64_t) : next(first) {}

  GOSSAMER_INLINE const T* take(std::int64_t n) {
    next += n;
    return next - n;
  }
};

template <class T, class S, int Tile>
void block(const SpmmBlockArgs& a) {
  // Enough segments at once to hide the latency of the addition, but no more than leave all sums
  // and operands in registers.
  constexpr int J = Tile / min_int(Tile, kLanes<T>);
  constexpr int R = J == 1 ? 4 : J <= (kVectorBytes == 64 ? 8 : 4) ? 2 : 1;
  Values<T, S, R * kLongestSegment> values(static_cast<const S*>(a.values), a.entries);
  const std::uint8_t* indices = a.indices;
  const std::uint16_t* rows = a.rows;
  const T* b = static_cast<const T*>(a.b);
  T* c = static_cast<T*>(a.c);
  for (std::int64_t k = 0; k < a.runs; ++k) {
    const int length = a.run_length[k];
    int left = a.run_count[k];
    const auto take = [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      T* at[kCount];
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) at[r] = c + rows[r] * Tile;
      segments<kCount, T, Tile>(indices, values.take(kCount * length), length, b, at);
      left -= kCount;
      rows += kCount;
      indices += kCount * length;
    };
    if constexpr (R >= 4) {
      while (left >= 4) take(Int<4>{});
    }
    if constexpr (R >= 2) {
      while (left >= 2) take(Int<2>{});
    }
    while (left > 0) take(Int<1>{});
  }
}

}  // namespace

void spmm_block(const SpmmBlockArgs& a);
void spmm_block(const SpmmBlockArgs& a) {
  with_tile(a.tile, [&](auto tile) {
    constexpr int kTile = decltype(tile)::value;
    with_float_type(a.value_type, [&](auto stored) {
      using S = typename decltype(stored)::type;
      block<decltype(to_float(S{})), S, kTile>(a);
    });
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
