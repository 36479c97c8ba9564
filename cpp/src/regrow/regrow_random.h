#pragma once

// Distinct uniform ranks without a table of what is drawn: the first n values of a permutation.

#include <cstdint>

#include "base/buffer.h"
#include "gossamer/detail/permutation.h"
#include "gossamer/regrow.h"

namespace gossamer::detail {

/// n distinct uniform numbers of [0, size), increasing.
Buffer<std::int64_t> draw_ranks(std::int64_t size, std::int64_t n, const regrow::RandomGrowth& key);

}  // namespace gossamer::detail
