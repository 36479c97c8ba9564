#pragma once

#include "gossamer/detail/check.h"
#include "gossamer/prune/score.h"

// What the backends ask of scores. A program that calls the operations needs none of this.

namespace gossamer::detail {

/// The name of a kind of score and the operands that it reads.
struct ScoreNeeds {
  const char* name;
  bool g, m, v, col;
};
ScoreNeeds needs_of(prune::ScoreKind kind);

/// Whether the score is the array `w` itself or its magnitude, so that it need not be evaluated.
bool is_direct(const prune::Score& score) noexcept;

/// Throws where an operand that the kind needs is missing, or one does not fit.
void check_score(const Checker& check, const prune::Score& score);

/// `out` may be written and shares no memory with the score's operands.
void check_apart(const Checker& check, const Argument& out, const prune::Score& score);

/// `out` is a mask [of the score's shape, contiguous] that may be written.
void check_mask_out(const Checker& check, const Argument& out, const prune::Score& score);

/// The operands of prune::evaluate.
void check_evaluate(const Checker& check, const prune::Score& score, const TensorView& out);

}  // namespace gossamer::detail
