// A row block against a column block whose B tile lies in L1: segments (the entries of one row in
// the column block) sorted by length, so that trip counts are predictable, and taken two at a time,
// so that twice as many sums hide the latency of the addition. C stays in a tile in L2.

#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

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

template <class T, int Tile>
void block(const SpmmBlockArgs& a) {
  // Sums of two segments must fit the registers beside the operands.
  constexpr int J = Tile / min_int(Tile, kLanes<T>);
  constexpr bool kPair = J <= (kVectorBytes == 64 ? 8 : 4);
  const T* values = static_cast<const T*>(a.values);
  const std::uint8_t* indices = a.indices;
  const std::uint16_t* rows = a.rows;
  const T* b = static_cast<const T*>(a.b);
  T* c = static_cast<T*>(a.c);
  for (std::int64_t k = 0; k < a.runs; ++k) {
    const int length = a.run_length[k];
    int left = a.run_count[k];
    if constexpr (kPair) {
      for (; left >= 2; left -= 2, rows += 2, indices += 2 * length, values += 2 * length) {
        segments<2, T, Tile>(indices, values, length, b, {c + rows[0] * Tile, c + rows[1] * Tile});
      }
    }
    for (; left > 0; --left, ++rows, indices += length, values += length) {
      segments<1, T, Tile>(indices, values, length, b, {c + rows[0] * Tile});
    }
  }
}

}  // namespace

void spmm_block(const SpmmBlockArgs& a);
void spmm_block(const SpmmBlockArgs& a) {
  with_tile(a.tile, [&](auto tile) {
    constexpr int kTile = decltype(tile)::value;
    if (a.f64) {
      block<double, kTile>(a);
    } else {
      block<float, kTile>(a);
    }
  });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
