// Rows of A times a tile of B, both bfloat16, on tiles: two by two tiles of sums, 32 rows by 32
// columns, stay in registers while two tiles of A and two of B are loaded for each 32 elements of
// the depth, or 16 where the depth is no multiple of 32.

#include "products/args.h"
#include "simd/amx.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Tiles 0 to 3 are the sums, 4 and 5 rows of A, 6 and 7 columns of B.
void configure(int rows, std::int64_t chunk) {
  const int upper = min_int(rows, 16), lower = rows - upper;
  const auto bytes = static_cast<std::uint16_t>(chunk * 2);
  TileConfig config;
  const auto set = [&](int t, int count, std::uint16_t row_bytes) {
    if (count == 0) return;
    config.rows[t] = static_cast<std::uint8_t>(count);
    config.row_bytes[t] = row_bytes;
  };
  set(0, upper, 64);
  set(1, upper, 64);
  set(2, lower, 64);
  set(3, lower, 64);
  set(4, upper, bytes);
  set(5, lower, bytes);
  set(6, static_cast<int>(chunk / 2), 64);
  set(7, static_cast<int>(chunk / 2), 64);
  configure_tiles(config);
}

/// Rows from `row` on: up to 16, or up to 32 of `Two` tiles; 16 columns, or 32 of `Wide` ones.
template <bool Two, bool Wide>
void add_tiles(const Bf16TileArgs& args, std::int64_t row, std::int64_t column,
               std::int64_t chunk) {
  const std::int64_t pitch = args.lda * 2, stride = std::int64_t{4} * args.tile;
  char* c = reinterpret_cast<char*>(args.c + row * args.tile + column);
  char* low = c + 16 * stride;
  if (args.accumulate) {
    _tile_loadd(0, c, stride);
    if constexpr (Wide) _tile_loadd(1, c + 64, stride);
    if constexpr (Two) _tile_loadd(2, low, stride);
    if constexpr (Two && Wide) _tile_loadd(3, low + 64, stride);
  } else {
    _tile_zero(0);
    if constexpr (Wide) _tile_zero(1);
    if constexpr (Two) _tile_zero(2);
    if constexpr (Two && Wide) _tile_zero(3);
  }
  const char* ahead = static_cast<const char*>(args.ahead) + row * args.ahead_row;
  const std::int64_t some =
      column > 0 ? 0 : args.ahead_row * 32 * chunk / (args.depth * args.count);
  for (std::int64_t p = 0; p < args.count; ++p) {
    const char* a = static_cast<const char*>(args.pairs[p].a) + row * pitch;
    const char* b = static_cast<const char*>(args.pairs[p].b) + column * 4;
    for (std::int64_t d = 0; d < args.depth; d += chunk) {
      for (std::int64_t i = 0; i < some; i += 64) _mm_prefetch(ahead + i, _MM_HINT_T1);
      ahead += some;
      _tile_loadd(6, b, stride);
      _tile_loadd(4, a, pitch);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (Wide) {
        _tile_loadd(7, b + 64, stride);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (Two) {
        _tile_loadd(5, a + 16 * pitch, pitch);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (Wide) _tile_dpbf16ps(3, 5, 7);
      }
      a += chunk * 2;
      b += chunk / 2 * stride;
    }
  }
  _tile_stored(0, c, stride);
  if constexpr (Wide) _tile_stored(1, c + 64, stride);
  if constexpr (Two) _tile_stored(2, low, stride);
  if constexpr (Two && Wide) _tile_stored(3, low + 64, stride);
}

template <bool Two>
void add_columns(const Bf16TileArgs& args, std::int64_t row, std::int64_t chunk) {
  std::int64_t column = 0;
  for (; column + 32 <= args.tile; column += 32) add_tiles<Two, true>(args, row, column, chunk);
  if (column < args.tile) add_tiles<Two, false>(args, row, column, chunk);
}

}  // namespace

void bf16_tile_amx(const Bf16TileArgs& a);
void bf16_tile_amx(const Bf16TileArgs& a) {
  const std::int64_t chunk = a.depth % 32 == 0 ? 32 : 16;
  std::int64_t row = 0;
  if (a.rows >= 32) configure(32, chunk);
  for (; row + 32 <= a.rows; row += 32) add_columns<true>(a, row, chunk);
  if (row < a.rows) {
    const auto rest = static_cast<int>(a.rows - row);
    configure(rest, chunk);
    rest > 16 ? add_columns<true>(a, row, chunk) : add_columns<false>(a, row, chunk);
  }
  _tile_release();
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
