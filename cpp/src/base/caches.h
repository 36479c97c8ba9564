#pragma once

// The size of the machine's level-2 cache, by which products cut their operands.

#include <cstdint>

namespace gossamer::detail {

/// Bytes of a core's level-2 cache, asked of the system once.
[[nodiscard]] std::int64_t level2_cache() noexcept;

/// Bytes of rows of B that are read again for each row of A, so that they stay in that cache: what
/// streams past them needs the rest of it. With 2 MiB, rows that fill half of it take 1.18 times as
/// long as those that fill all but 128 KiB (4096 × 11008, 50 and 90 % zeros, 32 columns).
inline std::int64_t tile_of_b() noexcept { return level2_cache() - (std::int64_t{384} << 10); }

/// Bytes of rows of b that a block of a sampled product looks at.
inline std::int64_t rows_of_b() noexcept { return level2_cache() / 2; }

/// Bytes of sums of a transposed product, which are stored as often as they are read. More was
/// slower with a cache of 2 MiB too.
inline constexpr std::int64_t kScatterTile = 256 << 10;

}  // namespace gossamer::detail
