#pragma once

#include <optional>

#include "gossamer/prune/enums.h"
#include "gossamer/tensor.h"

namespace gossamer::prune {

/// A score of each entry of `w`, evaluated where it is read: nothing of it is stored. `w` is
/// float32, float64, float16 or bfloat16; `g`, `m`, `v` have its shape, `col` is its last axis;
/// each may have a floating type of its own, float64 only where w has. Arrays are contiguous.
/// Arithmetic is float32 (float64 for float64) and gives the same bits at every ISA level.
struct Score {
  TensorView w;
  ScoreKind kind = ScoreKind::magnitude;
  std::optional<TensorView> g = {}, m = {}, v = {}, col = {};
  double alpha = 1.0, beta = 1.0, eps = 1e-8;
  /// Multiplies the score.
  double scale = 1.0;
};

/// float64 for a float64 score, else float32.
[[nodiscard]] DType dtype_of(const Score& score) noexcept;

/// out = score, of dtype_of(score) and w's shape, contiguous.
void evaluate(const Score& score, const TensorView& out);

}  // namespace gossamer::prune
