#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <variant>

#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/prune/score.h"
#include "gossamer/prune/select.h"
#include "gossamer/tensor.h"

namespace gossamer::regrow {

// Drop and grow: of the active entries those with the lowest scores become inactive, then of the
// inactive ones those with the highest become active. The number of active entries changes by
// exactly n_grow - n_drop. Results depend neither on the run nor on the number of threads.

/// Grows uniformly random places: those of the first n_grow ranks under a permutation of the ranks
/// of all places that may grow, keyed by both numbers. A mask and a matrix of one pattern grow the
/// same places.
struct RandomGrowth {
  std::uint64_t seed = 0, step = 0;
};

/// Grows places (rows[i], cols[i]), each [n] of int32 or int64, strided or not, by the scores [n],
/// or the first where there are none. Of equal places the first counts; places that may not grow
/// are passed over.
struct Coordinates {
  TensorView rows, cols;
  std::optional<prune::Score> score = {};
};

struct RegrowOptions {
  /// Whether what is dropped may grow again at once; it then keeps its value and its states.
  bool allow = true;
  /// How both selections order equal scores and NaN.
  prune::Tie tie = prune::Tie::low;
  prune::Nan nan = prune::Nan::lowest;
};

/// An array that follows the entries: what it gets at new places and at dropped ones.
struct Followed {
  TensorView array;
  /// The value at new places, or (for masks only) an array of `array`'s type and shape with it.
  double value = 0.0;
  std::optional<TensorView> source = {};
  /// Whether dropped places are set to zero.
  bool clears = false;
  /// What messages call the array.
  const char* name = "array";
};

/// A drop and growth of a mask, chosen but not yet made.
class MaskRegrowth {
 public:
  using Growth = std::variant<prune::Score, RandomGrowth>;

  /// `mask` (bool or uint8, nonzero is active) and both scores have one shape; `forbid`, where
  /// given, is a mask of the places that may not grow. All is contiguous. Throws ValueError where
  /// fewer than n_drop entries are active or fewer than n_grow places may grow.
  MaskRegrowth(const TensorView& mask, const prune::Score& drop, const Growth& grow,
               std::int64_t n_drop, std::int64_t n_grow, const std::optional<TensorView>& forbid,
               const RegrowOptions& options = {});
  MaskRegrowth(MaskRegrowth&&) noexcept;
  ~MaskRegrowth();

  /// The number of places that become active and were not.
  [[nodiscard]] std::int64_t fresh() const noexcept;

  /// Writes the new mask over `mask`, changes `arrays` of its shape, and writes the flat indices of
  /// the fresh places, increasing, to `places` [fresh()] of int64. Throws before anything is
  /// written.
  void apply(const TensorView& mask, std::span<const Followed> arrays,
             const TensorView& places) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// keep [of `values`' shape, bool or uint8] = all entries but the n_positive smallest positive and
/// the n_negative largest negative ones: those nearest to zero on each side (SET). Zeros and NaN
/// are kept.
void set_drop(const TensorView& values, std::int64_t n_positive, std::int64_t n_negative,
              const TensorView& keep);

/// The structure of a CSR matrix, or of a BSR matrix counted in blocks. `indices` may be longer
/// than its entries, to give room for more.
class RowStructure {
 public:
  /// Throws as Csr's constructor does. The matrix has indptr[rows] entries.
  RowStructure(const TensorView& indptr, const TensorView& indices, std::int64_t rows,
               std::int64_t cols);
  /// That of a matrix, which was checked when it was made.
  explicit RowStructure(const Csr& a) noexcept;
  explicit RowStructure(const Bsr& a) noexcept;

  /// The same structure in a longer array, which begins with this one's indices in memory.
  [[nodiscard]] RowStructure with_room(const TensorView& indices) const;

  [[nodiscard]] const TensorView& indptr() const noexcept { return indptr_; }
  [[nodiscard]] const TensorView& indices() const noexcept { return indices_; }
  [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::int64_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::int64_t nnz() const noexcept { return nnz_; }

 private:
  TensorView indptr_, indices_;
  std::int64_t rows_, cols_, nnz_;
};

/// Which entries stay: a score [nnz] by which the n_drop lowest go, or a mask [nnz] of those that
/// stay, with n_drop zeros.
using Drop = std::variant<prune::Score, TensorView>;

/// A score [rows, cols] of all places, some places with scores, or random ones.
using RowsGrowth = std::variant<prune::Score, Coordinates, RandomGrowth>;

/// Where nothing may grow: the structure of another matrix of the shape.
using Forbidden = std::optional<RowStructure>;

/// The entries that a structure has after n_drop went and n_grow came. Throws ValueError where it
/// has fewer to drop, fewer places to grow in, or no room for them in `indices`.
[[nodiscard]] std::int64_t entries_after(const RowStructure& structure, std::int64_t n_drop,
                                         std::int64_t n_grow);

/// Changes a structure in place and moves the arrays that follow its entries. Columns stay
/// increasing. `src` [nnz'] of the index type gets the old entry of each new one, or -1; the first
/// nnz' elements along the leading axis of each array in `arrays`, which is at least max(nnz, nnz')
/// long, become array[src], with the value where src is -1. nnz' = nnz - n_drop + n_grow must fit
/// `indices`. Throws before anything is written. Needs memory for n_grow places and a few bytes an
/// entry; only a score of all places makes it touch memory of the dense shape's size.
void csr_drop_grow_(const RowStructure& structure, const Drop& drop, const RowsGrowth& grow,
                    std::int64_t n_drop, std::int64_t n_grow, const Forbidden& forbid,
                    std::span<const Followed> arrays, const TensorView& src,
                    const RegrowOptions& options = {});

/// norms [nb] = Σ |x| over each block of `blocks` [nb, ...], contiguous; float64 for float64, else
/// float32.
void block_norms(const TensorView& blocks, const TensorView& norms);

}  // namespace gossamer::regrow
