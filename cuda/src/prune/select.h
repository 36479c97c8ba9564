#pragma once

// Selections as steps of operations.

#include <cstdint>
#include <span>

#include "gossamer/cuda.h"
#include "prune/parts.h"

namespace gossamer::cuda {

/// Marks exactly k > 0 entries of a list of parts, or all that may be selected where these are
/// fewer. Parts have their counts, `within` and masks; entries of a part without a mask are counted
/// and not marked.
struct Selection {
  std::span<SelectPart> parts;
  std::int64_t k;
  DType type;
  prune::SelectOptions options;
};
/// Bytes of workspace for `total` entries in `parts` arrays.
std::int64_t select_bytes(std::int64_t total, std::int64_t parts, DType type);
void select(const Selection& selection, void* workspace, Stream stream);

/// The k-th score of a part that has k entries, without marks, and how many come before it. Waits
/// for the stream; workspace as for select.
prune::Kth find_kth(const SelectPart& part, std::int64_t k, DType type,
                    const prune::SelectOptions& options, void* workspace, Stream stream);

/// How many of the parts' entries are NaN. Waits for the stream; workspace as for select.
std::int64_t count_nans(std::span<SelectPart> parts, DType type, void* workspace, Stream stream);

/// Throws ValueError if a score, called `name`, has NaN. Waits for the stream, `op` says for what.
void refuse_nans(const detail::Checker& check, const char* op, std::span<SelectPart> parts,
                 DType type, void* workspace, Stream stream, const char* name = "score");

}  // namespace gossamer::cuda
