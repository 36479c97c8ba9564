#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "gossamer/csr.h"
#include "gossamer/tensor.h"

namespace gossamer {

/// Blocks of a pattern: rows and columns of each.
struct LayoutBlock {
  std::int64_t rows, cols;

  friend bool operator==(const LayoutBlock&, const LayoutBlock&) = default;
};

/// Extents of a pattern in blocks: `batch` is 1 where all of a batch share it, `heads` 1, the
/// number of heads of keys, or that of queries.
struct LayoutShape {
  std::int64_t batch, heads, rows, cols;

  /// The rows of all heads.
  [[nodiscard]] std::int64_t all_rows() const noexcept { return batch * heads * rows; }
};

/// What is kept of a block. The first two keep all of it, and never differ in a result: `boundary`
/// says that the maker of the layout expects an option (causal, window) to mask a part of it.
enum class BlockKind : std::uint8_t { full, boundary, bits };

/// Which blocks of an attention matrix are computed, over borrowed arrays.
///
/// Row (b, h, i), at r = (b·heads + h)·rows + i, keeps the blocks of columns indices[p] for
/// indptr[r] ≤ p < indptr[r+1], strictly increasing: queries [i·bm, (i+1)·bm) meet keys
/// [indices[p]·bn, (indices[p]+1)·bn). `indptr` [batch·heads·rows + 1] and `indices` [nblocks] are
/// contiguous int32. `kinds` [nblocks] uint8, where given, holds a BlockKind for each block. The
/// blocks of kind `bits`, in their order, have bits [n, bm, ⌈bn/8⌉] uint8: element (r, c) of the
/// block is kept where bit c mod 8 of byte c/8 of row r is set. The object cannot exist in an
/// invalid state; none of its arrays may change afterwards.
class BlockLayout {
 public:
  using Check = Csr::Check;

  /// Throws TypeError for element types, ValueError for shapes, layout, device and structure (as
  /// Csr does; a kind out of range; bits whose number is not that of the blocks that have them).
  /// `Check::trust` skips only what needs a pass over the arrays.
  BlockLayout(const TensorView& indptr, const TensorView& indices,
              const std::optional<TensorView>& kinds, const std::optional<TensorView>& bits,
              LayoutShape shape, LayoutBlock block, Check check = Check::structure);
  BlockLayout(Unread structure, const TensorView& indptr, const TensorView& indices,
              const std::optional<TensorView>& kinds, const std::optional<TensorView>& bits,
              LayoutShape shape, LayoutBlock block);

  [[nodiscard]] const LayoutShape& shape() const noexcept { return shape_; }
  [[nodiscard]] const LayoutBlock& block() const noexcept { return block_; }
  [[nodiscard]] std::int64_t nblocks() const noexcept { return indices_.shape[0]; }
  [[nodiscard]] Device device() const noexcept { return indices_.device; }
  [[nodiscard]] const TensorView& indptr() const noexcept { return indptr_; }
  [[nodiscard]] const TensorView& indices() const noexcept { return indices_; }
  [[nodiscard]] const std::optional<TensorView>& kinds() const noexcept { return kinds_; }
  [[nodiscard]] const std::optional<TensorView>& bits() const noexcept { return bits_; }
  /// Bytes of the bits of one block.
  [[nodiscard]] std::int64_t bit_bytes() const noexcept {
    return block_.rows * ((block_.cols + 7) / 8);
  }

 private:
  TensorView indptr_, indices_;
  std::optional<TensorView> kinds_, bits_;
  LayoutShape shape_;
  LayoutBlock block_;
};

// Sources of layouts. For each of them, layout_count fills indptr and tells how many blocks there
// are, and layout_fill fills the other arrays for that indptr. The work grows with the blocks that
// are kept, but for masks, which are read whole.

/// The pattern of S2-Attention and Phi-3-small: block (i, j) of head h is kept where j ≤ i and
/// i - j < local, or where (j + 1 + h·head_shift) is a multiple of stride. The first `dense_heads`
/// heads keep all j ≤ i. Blocks of the diagonal are of kind `boundary`.
struct LocalStride {
  std::int64_t heads, blocks, local, stride, head_shift, dense_heads;
};

/// Longformer and BigBird: block (i, j) is kept where -before ≤ j - i ≤ after, where i or j is one
/// of `globals`, and for `random` further columns in each row, drawn by (seed, head, row). Where
/// `causal`, only j ≤ i are, those of the diagonal of kind `boundary`.
struct WindowGlobal {
  std::int64_t heads, rows, cols, before, after;
  std::vector<std::int64_t> globals;
  std::int64_t random;
  std::uint64_t seed;
  bool causal;
};

/// mask [B, H, Mb, Nb] (bool or uint8, any strides): the blocks whose entry is nonzero.
struct BlockMask {
  TensorView mask;
};

/// indices [B, H, Mb, n] (int32 or int64, any strides): of each row's list the first counts[B, H,
/// Mb] columns, or all without counts. In any order; those that are repeated count once, -1 stands
/// for none.
struct BlockLists {
  std::optional<TensorView> counts;
  TensorView indices;
  std::int64_t cols;
  const char* op = "BlockLayout.from_lists";  // what messages begin with
};

/// The entries of a pattern [batch·heads·S, columns] of single queries and keys: a block is kept
/// where it has an entry, of kind `bits` unless it has all.
struct PatternTiles {
  TensorView indptr, indices;
  std::int64_t columns, batch, heads;
  LayoutBlock block;
};

/// The first half of MInference's vertical-slash: slashes [B, H, n] (int32 or int64; -1 for none)
/// hold distances q - k, and a block is kept where it has a pair at one of them. `tokens` queries
/// and keys. The second: columns [B, H, n] of keys, with blocks of one column each, for the rows of
/// the first, without keys behind the row's last query or in a block that `slashes` keeps.
struct Slashes {
  TensorView slashes;
  std::int64_t tokens;
  LayoutBlock block;
};
struct Verticals {
  TensorView columns;
  std::int64_t tokens;
  const BlockLayout* slashes;
};

struct LayoutCount {
  std::int64_t blocks, bits;  // `bits`: of these, how many are of that kind
};

/// Any of the sources.
using LayoutSource = std::variant<LocalStride, WindowGlobal, BlockMask, BlockLists, PatternTiles,
                                  Slashes, Verticals>;

/// The extents of what a source makes.
[[nodiscard]] LayoutShape layout_shape(const LayoutSource& source);

LayoutCount layout_count(const LayoutSource& source, const TensorView& indptr);

/// The arrays behind indptr. `kinds` is left out for sources without kinds, `bits` for those
/// without bits.
struct LayoutArrays {
  TensorView indptr, indices;
  std::optional<TensorView> kinds = {}, bits = {};
};

void layout_fill(const LayoutSource& source, const LayoutArrays& arrays);

/// The transpose of each head's pattern, with blocks (bn, bm). `arrays` have the sizes of the
/// layout's own: indptr [batch·heads·cols + 1], kinds and bits where the layout has them.
void layout_transpose(const BlockLayout& layout, const LayoutArrays& arrays);

/// mask [B, H, Mb, Nb] bool = whether the block is kept or, where that is mask's shape,
/// [B, H, Mb·bm, Nb·bn] = whether the element is.
void layout_to_mask(const BlockLayout& layout, const TensorView& mask);

}  // namespace gossamer
