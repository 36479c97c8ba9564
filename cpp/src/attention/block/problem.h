#pragma once

// What forward and backward share: the operands as heads of sequences, and what each query sees.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <vector>

#include "attention/block/args.h"
#include "base/scratch.h"
#include "gossamer/attention.h"
#include "gossamer/detail/attention_checks.h"

namespace gossamer::detail {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

/// An operand [batch, rows, heads, depth] of which sequence b's row 0 is at batch·b, or, packed, at
/// row start[b].
struct Operand {
  std::byte* data;
  DType type;
  std::int64_t batch, row, head;  // strides in elements

  [[nodiscard]] std::byte* at(std::int64_t b, std::int64_t i, std::int64_t h) const noexcept {
    return data + (b * batch + i * row + h * head) * size_of(type);
  }
};

/// One sequence.
struct Sequence {
  std::int64_t queries, keys;
  std::int64_t first_query, first_key;  // in packed operands
};

/// Checked operands.
struct Problem {
  Problem(const Checker& check, const TensorView& q, const TensorView& k, const TensorView& v,
          const BlockLayout& layout, const AttentionOptions& options);

  AttentionSizes sizes;
  std::int64_t heads, key_heads, group;  // group = heads / key_heads
  std::int64_t depth, value_depth, value_width;
  std::int64_t longest, longest_keys;
  std::int64_t tokens;  // rows of q, of all sequences
  bool packed;
  std::vector<Sequence> sequences;
  Operand q, k, v;
  Device device;
  ScoreRule rule;
  bool limited;  // by causal or a window
  LayoutShape shape;
  LayoutBlock block;
  const BlockLayout& layout;
  const AttentionOptions& options;

  [[nodiscard]] std::int64_t batch() const noexcept {
    return static_cast<std::int64_t>(sequences.size());
  }
  /// The layout's row of a head of queries.
  [[nodiscard]] std::int64_t layout_row(std::int64_t b, std::int64_t head,
                                        std::int64_t i) const noexcept {
    const std::int64_t h = shape.heads == 1 ? 0 : head * shape.heads / heads;
    return ((shape.batch == 1 ? 0 : b) * shape.heads + h) * shape.rows + i;
  }
  /// How many heads of queries of one head of keys have one row of the layout in common: the whole
  /// group, or one.
  [[nodiscard]] std::int64_t shared() const noexcept { return shape.heads == heads ? 1 : group; }
  /// What query i of a head of sequence b sees.
  [[nodiscard]] QueryRow query_row(std::int64_t b, std::int64_t head, std::int64_t i) const;
  /// Where lse of query i is.
  [[nodiscard]] std::int64_t lse_at(std::int64_t b, std::int64_t head,
                                    std::int64_t i) const noexcept {
    return packed ? head * tokens + sequences[static_cast<std::size_t>(b)].first_query + i
                  : (b * heads + head) * longest + i;
  }
  [[nodiscard]] Operand operand(const TensorView& view) const;
  /// Row i of an operand of queries or keys.
  [[nodiscard]] std::byte* query(const Operand& x, std::int64_t b, std::int64_t i,
                                 std::int64_t h) const noexcept {
    return packed ? x.at(0, sequences[static_cast<std::size_t>(b)].first_query + i, h)
                  : x.at(b, i, h);
  }
  [[nodiscard]] std::byte* key(const Operand& x, std::int64_t b, std::int64_t i,
                               std::int64_t h) const noexcept {
    return packed ? x.at(0, sequences[static_cast<std::size_t>(b)].first_key + i, h)
                  : x.at(b, i, h);
  }
};

/// Can this processor multiply pairs of bfloat16, and does each row of x begin at a whole pair?
bool multiplies_pairs(const Operand& x, std::int64_t depth);

/// A piece of the work: rows [row0, row1) of the layout for the heads [head, head + shared) of a
/// sequence.
struct RowTask {
  std::int64_t b, head, row0, row1;
};

/// Cuts the rows of some heads of keys (pairs: b·key_heads + head) into tasks of about equal cost.
std::vector<RowTask> cut_tasks(const Problem& problem, std::int64_t pair0, std::int64_t pair1);

/// Keys [from, from + count) of one head, of rows `stride` apart, to columns of `width`.
void pack_columns(const std::byte* from, DType type, std::int64_t stride, std::int64_t count,
                  std::int64_t depth, std::int64_t width, float* to);
/// The same to rows of `width`.
void pack_rows(const std::byte* from, DType type, std::int64_t stride, std::int64_t count,
               std::int64_t depth, std::int64_t width, float* to);

/// Rows of bfloat16 to rows of pairs: the elements of two rows side by side, zeros behind the last
/// row and in the columns that pad.
void pack_pair_rows(const std::byte* from, std::int64_t stride, std::int64_t count,
                    std::int64_t depth, std::int64_t width, float* to);

/// How the columns of a block are cut into segments, and where they lie in packed arrays.
struct BlockCut {
  explicit BlockCut(std::int64_t cols) noexcept
      : cols_(cols), segments((cols + kSegmentKeys - 1) / kSegmentKeys) {
    const std::int64_t last = cols - (segments - 1) * kSegmentKeys;
    width = (segments - 1) * kSegmentKeys + round_up(last, kKeyUnit);
  }
  /// Columns of segment s, of which a block at the end of a sequence may have fewer.
  [[nodiscard]] std::int64_t cols(std::int64_t s) const noexcept {
    return s + 1 < segments ? kSegmentKeys : cols_ - s * kSegmentKeys;
  }
  [[nodiscard]] std::int64_t padded(std::int64_t s) const noexcept {
    return round_up(cols(s), kKeyUnit);
  }

 private:
  std::int64_t cols_;

 public:
  std::int64_t segments;
  std::int64_t width;  // of all segments
};

}  // namespace gossamer::detail
