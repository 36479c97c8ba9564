#include "base/bits.h"

#include <algorithm>
#include <vector>

#include "base/pool.h"

namespace gossamer::detail {

std::int64_t count_nonzero(const std::uint8_t* bytes, std::int64_t n) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; i += 255) {
    const std::int64_t stop = std::min(n, i + 255);
    std::uint8_t part = 0;  // at most 255 ones, so that a vector counts in bytes
    for (std::int64_t e = i; e < stop; ++e) {
      part = static_cast<std::uint8_t>(part + static_cast<std::uint8_t>(bytes[e] != 0));
    }
    count += part;
  }
  return count;
}

std::int64_t count_nonzero_of(const std::uint8_t* bytes, std::int64_t n) {
  constexpr std::int64_t kPiece = 65536;
  const std::int64_t pieces = (n + kPiece - 1) / kPiece;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(pieces), 0);
  parallel_for(pieces, [&](std::int64_t piece) {
    const std::int64_t begin = piece * kPiece;
    counts[static_cast<std::size_t>(piece)] =
        count_nonzero(bytes + begin, std::min(kPiece, n - begin));
  });
  std::int64_t total = 0;
  for (const std::int64_t count : counts) total += count;
  return total;
}

}  // namespace gossamer::detail
