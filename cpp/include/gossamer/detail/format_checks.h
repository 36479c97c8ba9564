#pragma once

// What the conversions between formats ask of their arguments, on whatever device. What needs a
// look at the numbers in an array is not among it.

#include <cstdint>
#include <optional>

#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/detail/check.h"
#include "gossamer/group_quant.h"
#include "gossamer/nm.h"

namespace gossamer::detail {

void check_csr_count(const Checker& check, const TensorView& w,
                     const std::optional<TensorView>& mask, const TensorView& indptr);
void check_csr_fill(const Checker& check, const TensorView& w,
                    const std::optional<TensorView>& mask, const TensorView& indptr,
                    const TensorView& indices, const TensorView& values);
void check_csr_to_dense(const Checker& check, const Csr& a, const TensorView& out);
void check_csr_transpose(const Checker& check, const Csr& a, const TensorView& indptr,
                         const TensorView& indices, const std::optional<TensorView>& values,
                         const std::optional<TensorView>& permutation);
void check_bsr_count(const Checker& check, const TensorView& w,
                     const std::optional<TensorView>& mask, std::int64_t block_rows,
                     std::int64_t block_cols, const TensorView& indptr);
void check_bsr_fill(const Checker& check, const TensorView& w,
                    const std::optional<TensorView>& mask, const TensorView& indptr,
                    const TensorView& indices, const TensorView& blocks);
void check_bsr_to_dense(const Checker& check, const Bsr& a, const TensorView& out);
void check_bsr_transpose(const Checker& check, const Bsr& a, const TensorView& indptr,
                         const TensorView& indices, const std::optional<TensorView>& blocks,
                         const TensorView& permutation);
/// The shapes of an N:M matrix's arrays; `side` is the dense matrix's name for messages.
[[nodiscard]] NmShape check_nm_sizes(const Checker& check, const char* side, std::int64_t rows,
                                     std::int64_t cols, std::int64_t n, std::int64_t m, int axis);
[[nodiscard]] NmShape check_nm_pack(const Checker& check, const TensorView& w,
                                    const std::optional<TensorView>& mask, std::int64_t n,
                                    std::int64_t m, int axis, const TensorView& values,
                                    const TensorView& indices);
void check_nm_to_dense(const Checker& check, const Nm& a, const TensorView& out);
void check_quant_to_dense(const Checker& check, const GroupQuant& a, const TensorView& out);
void check_convert_indices(const Checker& check, const TensorView& from, const TensorView& to);

}  // namespace gossamer::detail
