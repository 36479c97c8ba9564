#pragma once

#include "gossamer/detail/check.h"
#include "gossamer/prune/score.h"

// What the backends ask of scores. A program that calls the operations needs none of this.

namespace gossamer::detail {

/// Throws where an operand that the kind needs is missing, or one does not fit.
void check_score(const Checker& check, const prune::Score& score);

/// `out` may be written and shares no memory with the score's operands.
void check_apart(const Checker& check, const Argument& out, const prune::Score& score);

/// `out` is a mask [of the score's shape, contiguous] that may be written.
void check_mask_out(const Checker& check, const Argument& out, const prune::Score& score);

}  // namespace gossamer::detail
