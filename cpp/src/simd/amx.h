#pragma once

// Tiles (AMX): the compiler's intrinsics or, for tests on machines that have none, what they do,
// with a check of what they demand.

#include "simd/simd.h"

namespace gossamer::detail {
namespace {

/// What LDTILECFG loads: of each of the eight tiles the rows and the bytes of a row.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

#if defined(GOSSAMER_EMULATED_TILES)

struct EmulatedTile {
  int rows, row_bytes;
  unsigned char data[16][64];
};

struct EmulatedTiles {
  bool configured = false;
  EmulatedTile tile[8];

  EmulatedTile& operator[](int t) {
    if (!configured || t < 0 || t > 7 || tile[t].rows == 0) __builtin_trap();
    return tile[t];
  }
  void configure(const void* from) {
    TileConfig config;
    __builtin_memcpy(&config, from, sizeof config);
    if (config.palette != 1 || config.start_row != 0) __builtin_trap();
    for (int t = 0; t < 16; ++t) {
      const bool none = config.rows[t] == 0 && config.row_bytes[t] == 0;
      const bool some = config.rows[t] >= 1 && config.rows[t] <= 16 && config.row_bytes[t] >= 1 &&
                        config.row_bytes[t] <= 64;
      if (!none && (!some || t > 7)) __builtin_trap();
      if (t < 8) tile[t] = {config.rows[t], config.row_bytes[t], {}};
    }
    configured = true;
  }
  void load(int t, const void* from, std::int64_t stride) {
    EmulatedTile& to = (*this)[t];
    for (int r = 0; r < to.rows; ++r) {
      __builtin_memset(to.data[r], 0, 64);
      __builtin_memcpy(to.data[r], static_cast<const char*>(from) + r * stride,
                       static_cast<std::size_t>(to.row_bytes));
    }
  }
  void store(int t, void* to, std::int64_t stride) {
    const EmulatedTile& from = (*this)[t];
    for (int r = 0; r < from.rows; ++r) {
      __builtin_memcpy(static_cast<char*>(to) + r * stride, from.data[r],
                       static_cast<std::size_t>(from.row_bytes));
    }
  }
  void zero(int t) { __builtin_memset((*this)[t].data, 0, sizeof(*this)[t].data); }
  /// c [rows of a, columns of b] += a·b, where a row of b has pairs of rows.
  void multiply(int c, int a, int b) {
    EmulatedTile &sum = (*this)[c], &left = (*this)[a], &right = (*this)[b];
    if (sum.rows != left.rows || sum.row_bytes != right.row_bytes ||
        left.row_bytes != 4 * right.rows || sum.row_bytes % 4 != 0) {
      __builtin_trap();
    }
    const auto number = [](const unsigned char* from) {
      bf16_t bits;
      __builtin_memcpy(&bits, from, sizeof bits);
      // Subnormal numbers count as zeros.
      return (bits.bits & 0x7f80u) == 0 ? 0.0F : to_float(bits);
    };
    for (int m = 0; m < sum.rows; ++m) {
      for (int k = 0; k < right.rows; ++k) {
        for (int n = 0; n < sum.row_bytes / 4; ++n) {
          float total;
          __builtin_memcpy(&total, sum.data[m] + 4 * n, sizeof total);
          total += number(left.data[m] + 4 * k) * number(right.data[k] + 4 * n);
          total += number(left.data[m] + 4 * k + 2) * number(right.data[k] + 4 * n + 2);
          __builtin_memcpy(sum.data[m] + 4 * n, &total, sizeof total);
        }
      }
    }
  }
};
EmulatedTiles emulated_tiles;

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) emulated_tiles.configure(config)
#define _tile_release() emulated_tiles.configured = false
#define _tile_zero(t) emulated_tiles.zero(t)
#define _tile_loadd(t, from, stride) emulated_tiles.load(t, from, stride)
#define _tile_stored(t, to, stride) emulated_tiles.store(t, to, stride)
#define _tile_dpbf16ps(c, a, b) emulated_tiles.multiply(c, a, b)

#endif

/// Configures the tiles. The compiler's intrinsic does not say that it reads all of `config`.
GOSSAMER_INLINE void configure_tiles(const TileConfig& config) {
  asm volatile("" ::"m"(config));
  _tile_loadconfig(&config);
}

}  // namespace
}  // namespace gossamer::detail
