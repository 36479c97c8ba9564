#pragma once

// The size of the machine's level-2 cache, by which products cut their operands.

#include <cstdint>

namespace gossamer::detail {

/// Bytes of a core's level-2 cache, asked of the system once.
[[nodiscard]] std::int64_t level2_cache() noexcept;

/// Bytes of rows of B that stay in that cache, since they are read again for each row of A; the
/// rest of it is for what streams past. Where all rows of B fit, A is not cut into blocks of
/// columns: with 2 MiB, 1.4 MiB of B in one block are 1.18 times as fast as in three.
inline std::int64_t tile_of_b() noexcept { return level2_cache() - (std::int64_t{384} << 10); }

/// Bytes of rows of b that a block of a sampled product looks at.
inline std::int64_t rows_of_b() noexcept { return level2_cache() / 2; }

}  // namespace gossamer::detail
