#pragma once

// What the selections check of their operands, and masks of all or none.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/separate.h"
#include "gossamer/detail/mask_checks.h"
#include "gossamer/prune/select.h"
#include "prune/select/selector.h"

namespace gossamer::detail {

inline std::string text_of(std::int64_t n) { return std::to_string(n); }

inline std::uint8_t* bytes_of(const TensorView& mask) {
  return static_cast<std::uint8_t*>(mask.data);
}

/// Marks all n elements (`all`), or none.
void fill_mask(std::uint8_t* out, std::int64_t n, bool all, prune::MaskFormat format);

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
