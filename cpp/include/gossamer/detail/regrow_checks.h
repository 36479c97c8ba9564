#pragma once

// What the backends ask of drop-and-grow. A program that calls it needs none of this.

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>

#include "gossamer/detail/mask_checks.h"
#include "gossamer/regrow.h"

namespace gossamer::detail {

/// Throws unless `n`, called `name`, is 0 to `most`: `what` says of what.
void check_number(const Checker& check, const char* name, std::int64_t n, std::int64_t most,
                  const char* what);

/// The operands of regrow::set_drop, but for how many values there are on each side.
void check_set_drop(const Checker& check, const TensorView& values, const TensorView& keep);
/// Of which these many go.
void check_sides(const Checker& check, std::int64_t n_positive, std::int64_t positive,
                 std::int64_t n_negative, std::int64_t negative);

/// The arrays that follow are floating, contiguous and writable, and share no memory with `others`
/// nor with each other, nor with the values for new places. Their shapes are checked elsewhere.
void check_followed(const Checker& check, std::span<const regrow::Followed> arrays, Device device,
                    const char* like, std::initializer_list<Argument> others);

/// A mask, the scores of what goes and of what comes (null where places are drawn), and the places
/// that may not grow.
void check_drop_grow(const Checker& check, const TensorView& mask, const prune::Score& drop,
                     const prune::Score* grow, const std::optional<TensorView>& forbid);

/// What is written: the mask, which has the shape of `chosen`, the arrays that follow it, and the
/// places that are new, `fresh` of them.
void check_regrown(const Checker& check, const TensorView& mask, const TensorView& chosen,
                   std::span<const regrow::Followed> arrays, const TensorView& places,
                   std::int64_t fresh);

/// A score of nnz entries of which n_drop go, or a mask of those that stay.
void check_drop(const Checker& check, const regrow::Drop& drop, std::int64_t nnz,
                std::int64_t n_drop, Device device);
/// That mask has n_drop zeros.
void check_dropped(const Checker& check, std::int64_t zeros, std::int64_t n_drop);

/// The operands of regrow::csr_drop_grow_ but for what goes and for how many places may grow.
/// `after` is the number of entries afterwards.
void check_drop_grow_rows(const Checker& check, const regrow::RowStructure& structure,
                          const regrow::RowsGrowth& grow, std::int64_t after,
                          const regrow::Forbidden& forbid, std::span<const regrow::Followed> arrays,
                          const TensorView& src);

/// The arrays of places that are listed, but for whether they lie within the matrix.
void check_coordinates(const Checker& check, const regrow::Coordinates& given);
/// Place i of a list is (row, column): throws where that lies outside.
void check_place(const Checker& check, std::int64_t i, std::int64_t row, std::int64_t column,
                 std::int64_t rows, std::int64_t cols);

/// norms [nb] of blocks [nb, ...].
void check_block_norms(const Checker& check, const TensorView& blocks, const TensorView& norms);

}  // namespace gossamer::detail
