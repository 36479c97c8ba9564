#include "base/args.h"
#include "simd/amx.h"

namespace gossamer::detail::GOSSAMER_LEVEL {

void probe_tiles(const ProbeArgs& args);

// Products of tiles alone, two by two tiles of bfloat16: four independent sums keep the unit busy.
void probe_tiles(const ProbeArgs& args) {
  constexpr std::int64_t kRows = 16, kCols = 16, kDepth = 32;
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.row_bytes[t] = 64;
    config.rows[t] = 16;
  }
  alignas(64) float sums[kRows * kCols] = {};
  // Nor do the compiler's intrinsics that load tiles.
  asm volatile("" ::"m"(sums));
  configure_tiles(config);
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
