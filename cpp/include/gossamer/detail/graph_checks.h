#pragma once

// What the operations of graph.h ask of their arguments, on whatever device.

#include <cstdint>
#include <optional>

#include "gossamer/csr.h"
#include "gossamer/detail/check.h"

namespace gossamer::detail {

/// How many sets of values there are to compute with.
[[nodiscard]] std::int64_t sets_of(const CsrPattern& a, const std::optional<TensorView>& values);

void check_edge_score(const Checker& check, const CsrPattern& a, const TensorView& scores);
void check_strength(const Checker& check, const Csr& a, int axis, const TensorView& sums);

void check_row_sum(const Checker& check, const CsrPattern& a,
                   const std::optional<TensorView>& values, const TensorView& sums);
void check_row_max(const Checker& check, const CsrPattern& a, const TensorView& values,
                   const TensorView& out);
void check_scale_rows_cols(const Checker& check, const CsrPattern& a,
                           const std::optional<TensorView>& values,
                           const std::optional<TensorView>& rows,
                           const std::optional<TensorView>& cols, const TensorView& out);

}  // namespace gossamer::detail
