#pragma once

#include <cstdint>

// Choices that the public API offers and that kernels switch on as they are.

namespace gossamer::prune {

/// How the importance of an entry follows from its weight w, gradient g and other statistics.
enum class ScoreKind : std::uint8_t {
  value,      // w
  magnitude,  // |w|
  snip,       // |w·g|
  taylor2,    // (w·g)²
  sign,       // w·g
  wanda,      // |w|·√col, col the sums of squares of the input's columns
  obs,        // (w/col)², col the diagonal of the Cholesky factor of the inverse Hessian
  adam,       // |m|/(√v + eps)
  sum3,       // |w| + α|g| + β|m|; terms of operands that are not given are left out
  zo,         // w²·g²
  snr_abs,    // E|x|/√Var|x| of x ~ N(w, v²)
};

/// bytes: 0 or 1 for each element (bool or uint8); the others: 8 elements a byte, the first in its
/// lowest (little) or highest bit (big), [⌈n/8⌉] of uint8 with zeros after the last.
enum class MaskFormat : std::uint8_t { bytes, little, big };

/// Of the entries x of a block: their mean, their maximum, Σ|x| or √Σx².
enum class Reduce : std::uint8_t { mean, max, l1, l2 };

}  // namespace gossamer::prune
