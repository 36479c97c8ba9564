#pragma once

#include <cstdint>

namespace gossamer {

/// What a product applies to each of its sums before it writes them. GELU is the exact one, by the
/// error function; SiLU is x / (1 + e^-x).
enum class Activation : std::uint8_t { none, relu, relu6, gelu, silu, clamp };

}  // namespace gossamer
