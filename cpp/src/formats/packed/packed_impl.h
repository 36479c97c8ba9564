#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/args.h"
#include "base/buffer.h"
#include "gossamer/packed.h"
#include "products/args.h"

namespace gossamer::detail {

/// A borrowed matrix in row order, as the row-wise kernels read it.
struct RowsView {
  IndexKind kind;
  const void* indptr;
  const void* indices;
  const void* values;
  DType value_type;
  std::int64_t rows, cols, nnz;

  /// indptr[i], whatever its type.
  [[nodiscard]] std::int64_t pointer(std::int64_t i) const noexcept {
    return kind == IndexKind::i64_i64 ? static_cast<const std::int64_t*>(indptr)[i]
                                      : static_cast<const std::int32_t*>(indptr)[i];
  }
  [[nodiscard]] std::int64_t index(std::int64_t p) const noexcept {
    switch (kind) {
      case IndexKind::i32_u16:
        return static_cast<const std::uint16_t*>(indices)[p];
      case IndexKind::i32_i32:
        return static_cast<const std::int32_t*>(indices)[p];
      case IndexKind::i64_i64:
        return static_cast<const std::int64_t*>(indices)[p];
    }
    return 0;
  }
};

[[nodiscard]] RowsView rows_view(const Csr& a);

/// The ways a packed matrix may lie in memory. Each works for every width of B.
enum class Layout : std::uint8_t { rows, strips, blocks };

/// Row order with the narrowest indices: best where few entries are left.
struct RowsLayout {
  IndexKind kind;
  Buffer<std::byte> indptr, indices, values;
};

/// 16-row groups in strips of columns, strip after strip within a block of groups: best for few
/// columns.
struct StripsLayout {
  static constexpr int kLanes = 16;

  int width;
  std::int64_t groups_per_block, blocks, strips;
  std::vector<std::int64_t> step_begin;   // [blocks+1], into counts
  std::vector<std::int64_t> entry_begin;  // [blocks+1], into indices and values
  Buffer<StripGroup> groups;              // per block [strips*groups]
  Buffer<std::uint8_t> counts;            // [steps]
  Buffer<std::uint8_t> indices;           // [entries + 16]
  Buffer<std::byte> values;               // [entries + 16] of the source's type
};

/// Row blocks × column blocks of length-sorted segments: best for many columns.
struct BlocksLayout {
  std::int64_t block_rows, block_cols, row_blocks, col_blocks;
  // All [row_blocks*col_blocks + 1], row block major.
  std::vector<std::int64_t> run_begin, segment_begin, entry_begin;
  Buffer<std::uint16_t> run_length, run_count;
  Buffer<std::uint16_t> rows;
  Buffer<std::uint8_t> indices;
  Buffer<std::byte> values;  // of the type that sums are kept in
};

}  // namespace gossamer::detail

namespace gossamer {

struct Packed::Impl {
  std::int64_t rows, cols, nnz;
  DType dtype;
  PackOptions options;
  std::optional<detail::RowsLayout> by_rows;
  std::optional<detail::StripsLayout> strips;
  std::optional<detail::BlocksLayout> blocks;

  [[nodiscard]] double density() const;
  /// The fastest layout for `n` columns of B on this machine.
  [[nodiscard]] detail::Layout layout_for(std::int64_t n) const;

  /// The transpose, packed on first use.
  [[nodiscard]] const Impl& transposed() const;
  [[nodiscard]] detail::RowsView rows_view() const;
  [[nodiscard]] std::int64_t nbytes() const;

 private:
  mutable std::mutex transposed_mutex_;
  mutable std::shared_ptr<const Impl> transposed_;
};

}  // namespace gossamer
