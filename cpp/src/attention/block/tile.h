#pragma once

// Tiles of queries: the queries of one row of the layout, of all heads that share it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "attention/block/args.h"
#include "attention/block/problem.h"
#include "base/kernels.h"
#include "gossamer/tensor.h"

namespace gossamer::detail {

/// Rows [at, at + count) of (heads from `head` on) × (queries [first, first + queries)), the
/// queries of a head one after the other.
struct TileRows {
  std::int64_t b, head, first, queries, at, count;

  /// body(head, query, row of the tile, count) for runs of queries of one head.
  template <class F>
  void for_runs(F&& body) const {
    for (std::int64_t m = 0; m < count;) {
      const std::int64_t i = (at + m) % queries;
      const std::int64_t n = std::min(queries - i, count - m);
      body(head + (at + m) / queries, first + i, m, n);
      m += n;
    }
  }
};

/// Calls body(tile rows) for the queries of a row of the layout, in tiles.
template <class F>
void for_tiles(const Problem& p, const RowTask& task, std::int64_t row, F&& body) {
  const std::int64_t first = row * p.block.rows;
  const std::int64_t queries =
      std::min(p.block.rows, p.sequences[static_cast<std::size_t>(task.b)].queries - first);
  const std::int64_t total = queries * p.shared();
  for (std::int64_t at = 0; at < total; at += kTileRows) {
    body(TileRows{.b = task.b,
                  .head = task.head,
                  .first = first,
                  .queries = queries,
                  .at = at,
                  .count = std::min<std::int64_t>(kTileRows, total - at)});
  }
}

/// Which keys the queries of a tile see at all, and which all of them see.
struct KeySpan {
  KeySpan() = default;
  KeySpan(const QueryRow* query, std::int64_t count) {
    for (std::int64_t m = 0; m < count; ++m) {
      if (query[m].first < query[m].last) {
        any_first = std::min<std::int64_t>(any_first, query[m].first);
        any_last = std::max<std::int64_t>(any_last, query[m].last);
      }
      all_first = std::max<std::int64_t>(all_first, query[m].first);
      all_last = std::min<std::int64_t>(all_last, query[m].last);
    }
  }
  [[nodiscard]] bool touches(std::int64_t key, std::int64_t n) const noexcept {
    return key < any_last && key + n > any_first;
  }
  [[nodiscard]] bool contains(std::int64_t key, std::int64_t n) const noexcept {
    return key >= all_first && key + n <= all_last;
  }

  std::int64_t any_first = std::numeric_limits<std::int64_t>::max(), any_last = 0;
  std::int64_t all_first = 0, all_last = std::numeric_limits<std::int64_t>::max();
};

/// Rows of sums to an array of any type.
inline void store_rows(const float* sums, std::int64_t pitch, std::int64_t rows, std::int64_t cols,
                       void* to, DType type, std::int64_t stride) {
  base_kernels().store_tile({.tile = sums,
                             .ld = pitch,
                             .rows = rows,
                             .cols = cols,
                             .out = to,
                             .out_type = type,
                             .stride = stride,
                             .transposed = false,
                             .bias = nullptr,
                             .bias_by_row = false,
                             .activation = Activation::none,
                             .lo = 0,
                             .hi = 0,
                             .accumulate = false,
                             .f64 = false});
}

}  // namespace gossamer::detail
