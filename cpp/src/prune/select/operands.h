#pragma once

// What the selections check of their operands, and masks of all or none.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/separate.h"
#include "gossamer/detail/score.h"
#include "gossamer/prune/select.h"
#include "prune/select/selector.h"

namespace gossamer::detail {

inline std::string text_of(std::int64_t n) { return std::to_string(n); }

inline std::uint8_t* bytes_of(const TensorView& mask) {
  return static_cast<std::uint8_t*>(mask.data);
}

/// Bytes of a mask of n elements.
std::int64_t mask_bytes(std::int64_t n, prune::MaskFormat format);

/// Marks all n elements (`all`), or none.
void fill_mask(std::uint8_t* out, std::int64_t n, bool all, prune::MaskFormat format);

/// `within` is a contiguous mask of the score's shape.
void check_within(const Checker& check, const Argument& within, const TensorView& score);

/// `out` is a mask of the score's entries in this format, and shares no memory with the score.
void check_selected(const Checker& check, const Argument& out, const prune::Score& score,
                    prune::MaskFormat format);

/// A call reads a score: its operands by their names, or, where it is but an array, by `name`.
void reads(Separate& apart, const std::string& name, const prune::Score& score);

/// Throws ValueError where one of the elements, those of an argument called `name`, is NaN.
void refuse_nan(const Checker& check, const std::vector<SelectPart>& parts,
                const char* name = "score");
void refuse_nan(const Checker& check, const prune::Score& score);

/// prune::topk_mask as a step of the operation that `check` speaks for.
void topk_masks(const Checker& check, std::span<const prune::Score> scores, std::int64_t k,
                const prune::SelectOptions& options, std::span<const TensorView> within,
                std::span<const TensorView> outs);

}  // namespace gossamer::detail
