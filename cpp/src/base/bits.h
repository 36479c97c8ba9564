#pragma once

// Masks of a byte an element, nonzero for true.

#include <cstdint>

namespace gossamer::detail {

/// How many of n bytes are nonzero; the second on all threads.
std::int64_t count_nonzero(const std::uint8_t* bytes, std::int64_t n);
std::int64_t count_nonzero_of(const std::uint8_t* bytes, std::int64_t n);

}  // namespace gossamer::detail
