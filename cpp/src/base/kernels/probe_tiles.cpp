#include "base/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {

namespace {

/// What LDTILECFG loads: of each of the eight tiles the rows and the bytes of a row.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace

void probe_tiles(const ProbeArgs& args);

// Products of tiles alone, two by two tiles of bfloat16: four independent sums keep the unit busy.
void probe_tiles(const ProbeArgs& args) {
  constexpr std::int64_t kRows = 16, kCols = 16, kDepth = 32;
  const TileConfig config;
  alignas(64) float sums[kRows * kCols] = {};
  // The compiler's intrinsics do not say that they read all of what is pointed to.
  asm volatile("" ::"m"(config), "m"(sums));
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, sums, 64);
  _tile_loadd(5, sums, 64);
  _tile_loadd(6, sums, 64);
  _tile_loadd(7, sums, 64);
  for (std::int64_t round = 0; round < args.repeat; ++round) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, 64);
  _tile_release();
  *args.flops = args.repeat * 4 * kRows * kCols * kDepth * 2;
  *args.result = sums[0];
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
