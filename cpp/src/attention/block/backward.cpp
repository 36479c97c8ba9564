// Block attention, backward. Nothing is added to by two threads: dq is computed for a tile of
// queries against its keys, dk and dv for a tile of keys against their queries, by the transposed
// layout; scores are computed in both passes.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "attention/block/kernels.h"
#include "attention/block/problem.h"
#include "attention/block/tile.h"
#include "base/cut.h"
#include "base/floats.h"
#include "base/kernels.h"
#include "base/scratch.h"
#include "base/work.h"
#include "formats/layout/layout_rows.h"
#include "gossamer/attention.h"

namespace gossamer {
using namespace detail;
namespace {

/// Blocks with a shorter side are packed for each tile that needs them, 64 rows of that side at a
/// time; others once.
constexpr std::int64_t kNarrow = 16;
/// How much is packed at a time, unless one head needs more.
constexpr std::int64_t kPackedBytes = std::int64_t{96} << 20;

/// Operands, gradients of the results, and what follows from them for each query.
struct Backward {
  const Problem& p;
  Operand d_o, dq, dk, dv;
  const float* lse;    // as the caller's, but +∞ where no key was seen
  const float* delta;  // Σ_d dO·o - d_lse
  float* dbias;        // may be null
  const TensorView* dbias_view;
  std::int64_t depth_width;
  /// Products are those of pairs of bfloat16: q·k and dO·v lose nothing by it, the others meet p
  /// and ds rounded to bfloat16, as the naive computation does.
  bool pairs;

  [[nodiscard]] QueryRow query_row(std::int64_t b, std::int64_t head, std::int64_t i) const {
    QueryRow row = p.query_row(b, head, i);
    if (dbias != nullptr) {
      const auto& strides = dbias_view->strides;
      row.bias_slope = dbias + b * strides[0] + head * strides[1] + i * strides[2];
    }
    return row;
  }
};

/// Rows of one side, gathered or in order: columns of both operands and rows of the ones needed.
struct SideBuffers {
  float *x_columns, *y_columns, *x_rows, *y_rows;
};

/// Pairs are for blocks that are packed, not gathered.
bool multiplies_pairs(const Problem& p, const Operand& d_o) {
  return p.block.rows >= kNarrow && p.block.cols >= kNarrow &&
         detail::multiplies_pairs(p.q, p.depth) && detail::multiplies_pairs(p.k, p.depth) &&
         detail::multiplies_pairs(p.v, p.value_depth) &&
         detail::multiplies_pairs(d_o, p.value_depth);
}

/// Packs `count` rows of x and y, `stride` apart, into a segment of `width` columns.
void pack_side(const std::byte* x, const Operand& x_of, const std::byte* y, const Operand& y_of,
               std::int64_t count, std::int64_t width, const Backward& a, bool with_y_rows,
               const SideBuffers& to) {
  if (a.pairs) {
    pack_columns(x, DType::f32, x_of.row / 2, count, a.p.depth / 2, width, to.x_columns);
    pack_columns(y, DType::f32, y_of.row / 2, count, a.p.value_depth / 2, width, to.y_columns);
    pack_pair_rows(x, x_of.row, count, a.p.depth, a.depth_width, to.x_rows);
    if (with_y_rows) {
      pack_pair_rows(y, y_of.row, count, a.p.value_depth, a.p.value_width, to.y_rows);
    }
    return;
  }
  pack_columns(x, x_of.type, x_of.row, count, a.p.depth, width, to.x_columns);
  pack_columns(y, y_of.type, y_of.row, count, a.p.value_depth, width, to.y_columns);
  pack_rows(x, x_of.type, x_of.row, count, a.p.depth, a.depth_width, to.x_rows);
  if (with_y_rows) {
    pack_rows(y, y_of.type, y_of.row, count, a.p.value_depth, a.p.value_width, to.y_rows);
  }
}

/// A packed side of one head: segments of all of its blocks.
class PackedSide {
 public:
  PackedSide(const Backward& backward, std::int64_t side, std::int64_t blocks, bool with_y_rows)
      : a(backward),
        cut(side),
        side_(side),
        with_y_rows_(with_y_rows),
        columns_(blocks * cut.width),
        rows_(blocks * side),
        size_(columns_ * (a.p.depth + a.p.value_depth) +
              rows_ * (a.depth_width + (with_y_rows ? a.p.value_width : 0))) {}

  [[nodiscard]] std::int64_t floats() const noexcept { return size_; }

  [[nodiscard]] SideBuffers at(float* base, std::int64_t block, std::int64_t s) const {
    const std::int64_t column = block * cut.width + s * kSegmentKeys;
    const std::int64_t row = block * side_ + s * kSegmentKeys;
    float* y = base + columns_ * a.p.depth;
    float* rows = y + columns_ * a.p.value_depth;
    return {.x_columns = base + column * a.p.depth,
            .y_columns = y + column * a.p.value_depth,
            .x_rows = rows + row * a.depth_width,
            .y_rows = rows + rows_ * a.depth_width + row * a.p.value_width};
  }

  /// Packs one block, of which a sequence of `length` rows has a part.
  template <class RowX, class RowY>
  void pack(float* base, std::int64_t block, std::int64_t length, RowX&& x, const Operand& x_of,
            RowY&& y, const Operand& y_of) const {
    for (std::int64_t s = 0; s < cut.segments; ++s) {
      const std::int64_t row = block * side_ + s * kSegmentKeys;
      const std::int64_t count = std::min(cut.cols(s), length - row);
      if (count <= 0) return;
      pack_side(x(row), x_of, y(row), y_of, count, cut.padded(s), a, with_y_rows_,
                at(base, block, s));
    }
  }

  const Backward& a;
  BlockCut cut;

 private:
  std::int64_t side_;
  bool with_y_rows_;
  std::int64_t columns_, rows_, size_;
};

/// A tile of queries or keys while its gradients are summed.
class GradientTile {
 public:
  GradientTile(const Backward& backward, bool keys_stay)
      : a_(backward),
        keys_stay_(keys_stay),
        memory_(4 * kTileRows *
                (backward.p.depth + backward.p.value_depth + 2 * kSegmentKeys +
                 backward.depth_width + backward.p.value_width)) {
    x = memory_.as<float>();
    y = x + kTileRows * a_.p.depth;
    scores_ = y + kTileRows * a_.p.value_depth;
    slopes_ = scores_ + kTileRows * kSegmentKeys;
    x_sums = slopes_ + kTileRows * kSegmentKeys;
    y_sums = x_sums + kTileRows * a_.depth_width;
  }

  /// Rows [at, at + count) of x and of y.
  void load(const std::byte* x_from, const Operand& x_of, const std::byte* y_from,
            const Operand& y_of, std::int64_t at, std::int64_t count) const {
    load_rows(x_from, x_of, a_.p.depth, at, count, x);
    load_rows(y_from, y_of, a_.p.value_depth, at, count, y);
  }

  void clear(std::int64_t rows) {
    std::fill_n(x_sums, rows * a_.depth_width, 0.0f);
    if (keys_stay_) std::fill_n(y_sums, rows * a_.p.value_width, 0.0f);
  }

  void add(std::int64_t rows, std::int32_t first_key, std::int32_t bits_at,
           const GradientSegment* segments, std::int64_t count) const {
    block_attention_kernels().attention_backward_tile(
        {.pairs = a_.pairs,
         .keys_stay = keys_stay_,
         .x = x,
         .y = y,
         .rows = rows,
         .depth = a_.p.depth / (a_.pairs ? 2 : 1),
         .value_depth = a_.p.value_depth / (a_.pairs ? 2 : 1),
         .depth_width = a_.depth_width,
         .value_width = a_.p.value_width,
         .query = query,
         .lse = lse,
         .delta = delta,
         .key = first_key,
         .bits_at = bits_at,
         .segments = segments,
         .count = count,
         .bits_pitch = (a_.p.block.cols + 7) / 8,
         .rule = a_.p.rule,
         .scores = scores_,
         .slopes = slopes_,
         .x_sums = x_sums,
         .y_sums = y_sums});
  }

  /// Writes rows of x_sums times the scale.
  void store_x(std::int64_t at, std::int64_t count, std::byte* to, const Operand& like) const {
    float* sums = x_sums + at * a_.depth_width;
    for (std::int64_t i = 0; i < count * a_.depth_width; ++i) sums[i] *= a_.p.rule.scale;
    store_rows(sums, a_.depth_width, count, a_.p.depth, to, like.type, like.row);
  }

 private:
  void load_rows(const std::byte* from, const Operand& of, std::int64_t depth, std::int64_t at,
                 std::int64_t count, float* to) const {
    if (a_.pairs) {
      pack_rows(from, DType::f32, of.row / 2, count, depth / 2, depth / 2, to + at * depth / 2);
    } else {
      pack_rows(from, of.type, of.row, count, depth, depth, to + at * depth);
    }
  }

  const Backward& a_;
  bool keys_stay_;
  Scratch memory_;
  float *scores_, *slopes_;

 public:
  float *x, *y, *x_sums, *y_sums;
  QueryRow query[kTileRows];
  float lse[kTileRows], delta[kTileRows];
};

/// Room for one segment that is gathered.
class GatheredSide {
 public:
  explicit GatheredSide(const Backward& a)
      : memory_(4 * kSegmentKeys *
                (2 * a.p.depth + 2 * a.p.value_depth + a.depth_width + a.p.value_width)) {
    float* at = memory_.as<float>();
    x_plain = at;
    y_plain = x_plain + kSegmentKeys * a.p.depth;
    to.x_columns = y_plain + kSegmentKeys * a.p.value_depth;
    to.y_columns = to.x_columns + kSegmentKeys * a.p.depth;
    to.x_rows = to.y_columns + kSegmentKeys * a.p.value_depth;
    to.y_rows = to.x_rows + kSegmentKeys * a.depth_width;
  }
  /// Makes the segment of what is in x_plain and y_plain.
  void pack(const Backward& a, std::int64_t width) const {
    const Operand x{.data = nullptr, .type = DType::f32, .batch = 0, .row = a.p.depth, .head = 0};
    Operand y = x;
    y.row = a.p.value_depth;
    pack_side(reinterpret_cast<const std::byte*>(x_plain), x,
              reinterpret_cast<const std::byte*>(y_plain), y, count, width, a, true, to);
  }

 private:
  Scratch memory_;

 public:
  float *x_plain, *y_plain;
  SideBuffers to;
  std::int64_t count = 0;
  std::int32_t keys[kSegmentKeys];
  QueryRow query[kSegmentKeys];
  float lse[kSegmentKeys], delta[kSegmentKeys];
};

/// dq (and dbias) of a task's rows. `packed` is the keys' side, or null where keys are gathered.
void query_pass(const Backward& a, const LayoutRows& layout, const PackedSide* side,
                const float* packed, const RowTask& task) {
  const Problem& p = a.p;
  const std::int64_t key_head = task.head / p.group;
  const std::int64_t length = p.sequences[static_cast<std::size_t>(task.b)].keys;
  GradientTile tile(a, false);
  GatheredSide gathered(a);
  std::vector<GradientSegment> segments;
  for (std::int64_t row = task.row0; row < task.row1; ++row) {
    const std::int64_t r = p.layout_row(task.b, task.head, row);
    for_tiles(p, task, row, [&](const TileRows& rows) {
      rows.for_runs([&](std::int64_t head, std::int64_t i, std::int64_t at, std::int64_t count) {
        tile.load(p.query(p.q, task.b, i, head), p.q, p.query(a.d_o, task.b, i, head), a.d_o, at,
                  count);
        const std::int64_t place = p.lse_at(task.b, head, i);
        for (std::int64_t m = 0; m < count; ++m) {
          tile.query[at + m] = a.query_row(task.b, head, i + m);
          tile.lse[at + m] = a.lse[place + m];
          tile.delta[at + m] = a.delta[place + m];
        }
      });
      tile.clear(rows.count);
      const KeySpan span(tile.query, rows.count);
      segments.clear();
      const auto flush = [&] {
        if (gathered.count == 0) return;
        const std::int64_t width = round_up(gathered.count, kKeyUnit);
        gathered.pack(a, width);
        const GradientSegment segment{.x_columns = gathered.to.x_columns,
                                      .y_columns = gathered.to.y_columns,
                                      .x_rows = gathered.to.x_rows,
                                      .y_rows = nullptr,
                                      .query = nullptr,
                                      .lse = nullptr,
                                      .delta = nullptr,
                                      .keys = gathered.keys,
                                      .bits = nullptr,
                                      .key = 0,
                                      .count = static_cast<std::int32_t>(gathered.count),
                                      .width = static_cast<std::int32_t>(width),
                                      .masked = true};
        tile.add(rows.count, 0, 0, &segment, 1);
        gathered.count = 0;
      };
      const std::uint8_t* bits = layout.bits_of(r);
      for (std::int64_t e = layout.indptr[r]; e < layout.indptr[r + 1]; ++e) {
        const std::uint8_t* own = nullptr;
        if (layout.has_bits(e)) {
          own = bits;
          bits += layout.bit_bytes;
        }
        const std::int64_t block = layout.indices[e];
        if (side == nullptr) {
          for (std::int64_t n = 0; n < p.block.cols; ++n) {
            const std::int64_t key = block * p.block.cols + n;
            if (key >= length || !span.touches(key, 1)) continue;
            pack_rows(p.key(p.k, task.b, key, key_head), p.k.type, p.k.row, 1, p.depth, p.depth,
                      gathered.x_plain + gathered.count * p.depth);
            pack_rows(p.key(p.v, task.b, key, key_head), p.v.type, p.v.row, 1, p.value_depth,
                      p.value_depth, gathered.y_plain + gathered.count * p.value_depth);
            gathered.keys[gathered.count++] = static_cast<std::int32_t>(key);
            if (gathered.count == kSegmentKeys) flush();
          }
          continue;
        }
        for (std::int64_t s = 0; s < side->cut.segments; ++s) {
          const std::int64_t key = block * p.block.cols + s * kSegmentKeys;
          const std::int64_t count = std::min(side->cut.cols(s), length - key);
          if (count <= 0 || !span.touches(key, count)) continue;
          const SideBuffers from = side->at(const_cast<float*>(packed), block, s);
          segments.push_back({.x_columns = from.x_columns,
                              .y_columns = from.y_columns,
                              .x_rows = from.x_rows,
                              .y_rows = nullptr,
                              .query = nullptr,
                              .lse = nullptr,
                              .delta = nullptr,
                              .keys = nullptr,
                              .bits = own == nullptr ? nullptr : own + s * kSegmentKeys / 8,
                              .key = static_cast<std::int32_t>(key),
                              .count = static_cast<std::int32_t>(count),
                              .width = static_cast<std::int32_t>(side->cut.padded(s)),
                              .masked = !span.contains(key, count)});
        }
      }
      flush();
      tile.add(rows.count, 0, 0, segments.data(), static_cast<std::int64_t>(segments.size()));
      rows.for_runs([&](std::int64_t head, std::int64_t i, std::int64_t at, std::int64_t count) {
        tile.store_x(at, count, p.query(a.dq, task.b, i, head), a.dq);
      });
    });
  }
}

/// Queries of one head of a sequence, packed, with what belongs to each.
struct QuerySide {
  const float* packed;
  const QueryRow* query;
  const float* lse;    // padded as the segments' columns are
  const float* delta;  // the same
};

struct ColumnTask {
  std::int64_t b, key_head, col0, col1;
};

/// dk and dv of a task's columns of blocks. `side` is that of queries, null where they are
/// gathered; `heads` holds its group's.
void key_pass(const Backward& a, const LayoutRows& layout, const TransposedLayout& turned,
              const std::int32_t* bit_places, const PackedSide* side, const QuerySide* heads,
              const ColumnTask& task) {
  const Problem& p = a.p;
  const Sequence& sequence = p.sequences[static_cast<std::size_t>(task.b)];
  GradientTile tile(a, true);
  GatheredSide gathered(a);
  std::vector<GradientSegment> segments;
  for (std::int64_t column = task.col0; column < task.col1; ++column) {
    const std::int64_t first = column * p.block.cols;
    const std::int64_t last = std::min(first + p.block.cols, sequence.keys);
    for (std::int64_t key = first; key < last; key += kTileRows) {
      const std::int64_t count = std::min<std::int64_t>(kTileRows, last - key);
      tile.load(p.key(p.k, task.b, key, task.key_head), p.k, p.key(p.v, task.b, key, task.key_head),
                p.v, 0, count);
      tile.clear(count);
      segments.clear();
      const auto key32 = static_cast<std::int32_t>(key);
      const auto bits_at = static_cast<std::int32_t>(key - first);
      const auto flush = [&] {
        if (gathered.count == 0) return;
        const std::int64_t width = round_up(gathered.count, kKeyUnit);
        for (std::int64_t n = gathered.count; n < width; ++n) {
          gathered.lse[n] = kInfinity;
          gathered.delta[n] = 0;
        }
        gathered.pack(a, width);
        const GradientSegment segment{.x_columns = gathered.to.x_columns,
                                      .y_columns = gathered.to.y_columns,
                                      .x_rows = gathered.to.x_rows,
                                      .y_rows = gathered.to.y_rows,
                                      .query = gathered.query,
                                      .lse = gathered.lse,
                                      .delta = gathered.delta,
                                      .keys = nullptr,
                                      .bits = nullptr,
                                      .key = 0,
                                      .count = static_cast<std::int32_t>(gathered.count),
                                      .width = static_cast<std::int32_t>(width),
                                      .masked = true};
        tile.add(count, key32, bits_at, &segment, 1);
        gathered.count = 0;
      };
      for (std::int64_t g = 0; g < p.group; ++g) {
        const std::int64_t head = task.key_head * p.group + g;
        const std::int64_t pattern = p.layout_row(task.b, head, 0) / p.shape.rows;
        const std::int64_t at = pattern * p.shape.cols + column;
        for (std::int64_t e = turned.indptr[at]; e < turned.indptr[at + 1]; ++e) {
          const std::int64_t row = turned.rows[e], entry = turned.entries[e];
          const std::uint8_t* bits =
              layout.has_bits(entry) ? layout.bits + bit_places[entry] * layout.bit_bytes : nullptr;
          if (side == nullptr) {
            const std::int64_t end = std::min((row + 1) * p.block.rows, sequence.queries);
            for (std::int64_t i = row * p.block.rows; i < end; ++i) {
              const QueryRow query = p.query_row(task.b, head, i);
              if (query.first >= key + count || query.last <= key) continue;
              const std::int64_t n = gathered.count++;
              pack_rows(p.query(p.q, task.b, i, head), p.q.type, p.q.row, 1, p.depth, p.depth,
                        gathered.x_plain + n * p.depth);
              pack_rows(p.query(a.d_o, task.b, i, head), a.d_o.type, a.d_o.row, 1, p.value_depth,
                        p.value_depth, gathered.y_plain + n * p.value_depth);
              gathered.query[n] = query;
              gathered.lse[n] = a.lse[p.lse_at(task.b, head, i)];
              gathered.delta[n] = a.delta[p.lse_at(task.b, head, i)];
              if (gathered.count == kSegmentKeys) flush();
            }
            continue;
          }
          const QuerySide& queries = heads[g];
          for (std::int64_t s = 0; s < side->cut.segments; ++s) {
            const std::int64_t i = row * p.block.rows + s * kSegmentKeys;
            const std::int64_t n = std::min(side->cut.cols(s), sequence.queries - i);
            if (n <= 0) break;
            const KeySpan span(queries.query + i, n);
            if (!span.touches(key, count)) continue;
            const SideBuffers from = side->at(const_cast<float*>(queries.packed), row, s);
            const std::int64_t place = row * side->cut.width + s * kSegmentKeys;
            segments.push_back({.x_columns = from.x_columns,
                                .y_columns = from.y_columns,
                                .x_rows = from.x_rows,
                                .y_rows = from.y_rows,
                                .query = queries.query + i,
                                .lse = queries.lse + place,
                                .delta = queries.delta + place,
                                .keys = nullptr,
                                .bits = bits,
                                .key = 0,
                                .count = static_cast<std::int32_t>(n),
                                .width = static_cast<std::int32_t>(side->cut.padded(s)),
                                .masked = !span.contains(key, count)});
          }
        }
      }
      flush();
      tile.add(count, key32, bits_at, segments.data(), static_cast<std::int64_t>(segments.size()));
      tile.store_x(0, count, p.key(a.dk, task.b, key, task.key_head), a.dk);
      store_rows(tile.y_sums, p.value_width, count, p.value_depth,
                 p.key(a.dv, task.b, key, task.key_head), a.dv.type, a.dv.row);
    }
  }
}

/// Calls body(pair, first, last) for parts of `size` blocks of each pair.
template <class F>
void for_blocks(std::int64_t pairs, std::int64_t size, std::int64_t step, F&& body) {
  const std::int64_t cuts = ceil_div(size, step);
  parallel_for(pairs * cuts, [&](std::int64_t task) {
    const std::int64_t first = task % cuts * step;
    body(task / cuts, first, std::min(first + step, size));
  });
}

void queries_pass(const Backward& a, const LayoutRows& layout) {
  const Problem& p = a.p;
  const std::int64_t pairs = p.batch() * p.key_heads;
  const bool gather = p.block.cols < kNarrow && layout.bits == nullptr;
  const PackedSide side(a, p.block.cols, p.shape.cols, false);
  const std::int64_t wave =
      gather
          ? pairs
          : std::max<std::int64_t>(kPackedBytes / std::max<std::int64_t>(side.floats() * 4, 1), 1);
  for (std::int64_t pair = 0; pair < pairs; pair += wave) {
    const std::int64_t end = std::min(pair + wave, pairs);
    const Scratch memory(gather ? 0 : (end - pair) * side.floats() * 4);
    auto* packed = memory.as<float>();
    if (!gather) {
      const std::int64_t step = std::max<std::int64_t>(512 / p.block.cols, 1);
      for_blocks(end - pair, p.shape.cols, step,
                 [&](std::int64_t i, std::int64_t first, std::int64_t last) {
                   const std::int64_t b = (pair + i) / p.key_heads, h = (pair + i) % p.key_heads;
                   for (std::int64_t c = first; c < last; ++c) {
                     side.pack(
                         packed + i * side.floats(), c,
                         p.sequences[static_cast<std::size_t>(b)].keys,
                         [&](std::int64_t key) { return p.key(p.k, b, key, h); }, p.k,
                         [&](std::int64_t key) { return p.key(p.v, b, key, h); }, p.v);
                   }
                 });
    }
    const std::vector<RowTask> tasks = cut_tasks(p, pair, end);
    parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i) {
      const RowTask& task = tasks[static_cast<std::size_t>(i)];
      const std::int64_t own = task.b * p.key_heads + task.head / p.group - pair;
      query_pass(a, layout, gather ? nullptr : &side,
                 gather ? nullptr : packed + own * side.floats(), task);
    });
  }
}

void keys_pass(const Backward& a, const LayoutRows& layout) {
  const Problem& p = a.p;
  const TransposedLayout turned(p.layout);
  std::vector<std::int32_t> bit_places;
  if (layout.bits != nullptr) {
    std::int32_t next = 0;
    for (std::int64_t e = 0; e < p.layout.nblocks(); ++e) {
      bit_places.push_back(next);
      next += layout.kinds[e] == static_cast<std::uint8_t>(BlockKind::bits);
    }
  }
  const std::int64_t pairs = p.batch() * p.key_heads;
  const bool gather = p.block.rows < kNarrow && layout.bits == nullptr;
  const PackedSide side(a, p.block.rows, p.shape.rows, true);
  const std::int64_t columns = p.shape.rows * side.cut.width;
  const std::int64_t per_pair = p.group * side.floats() * 4;
  const std::int64_t wave =
      gather ? pairs
             : std::max<std::int64_t>(kPackedBytes / std::max<std::int64_t>(per_pair, 1), 1);
  for (std::int64_t pair = 0; pair < pairs; pair += wave) {
    const std::int64_t end = std::min(pair + wave, pairs);
    const std::int64_t heads = gather ? 0 : (end - pair) * p.group;
    const Scratch memory(heads * side.floats() * 4);
    const Scratch numbers(heads * columns * 8);
    const Scratch query_rows(heads * p.longest * static_cast<std::int64_t>(sizeof(QueryRow)));
    std::vector<QuerySide> sides(static_cast<std::size_t>(heads));
    auto* packed = memory.as<float>();
    auto* rows = query_rows.as<QueryRow>();
    for (std::int64_t i = 0; i < heads; ++i) {
      float* lse = numbers.as<float>() + i * 2 * columns;
      sides[static_cast<std::size_t>(i)] = {.packed = packed + i * side.floats(),
                                            .query = rows + i * p.longest,
                                            .lse = lse,
                                            .delta = lse + columns};
    }
    const std::int64_t step = std::max<std::int64_t>(512 / p.block.rows, 1);
    for_blocks(heads, p.shape.rows, step,
               [&](std::int64_t i, std::int64_t first, std::int64_t last) {
                 const std::int64_t b = (pair * p.group + i) / p.heads;
                 const std::int64_t head = (pair * p.group + i) % p.heads;
                 const std::int64_t queries = p.sequences[static_cast<std::size_t>(b)].queries;
                 float* lse = numbers.as<float>() + i * 2 * columns;
                 for (std::int64_t r = first; r < last; ++r) {
                   side.pack(
                       packed + i * side.floats(), r, queries,
                       [&](std::int64_t at) { return p.query(p.q, b, at, head); }, p.q,
                       [&](std::int64_t at) { return p.query(a.d_o, b, at, head); }, a.d_o);
                   for (std::int64_t c = 0; c < side.cut.width; ++c) {
                     // Segments but the last are full, so that columns are queries.
                     const std::int64_t at = r * p.block.rows + c, to = r * side.cut.width + c;
                     const bool real = c < p.block.rows && at < queries;
                     const std::int64_t place = real ? p.lse_at(b, head, at) : 0;
                     lse[to] = real ? a.lse[place] : kInfinity;
                     lse[columns + to] = real ? a.delta[place] : 0;
                     if (real) rows[i * p.longest + at] = p.query_row(b, head, at);
                   }
                 }
               });
    std::vector<ColumnTask> tasks;
    std::int64_t work = 0;
    const auto cost = [&](std::int64_t b, std::int64_t key_head, std::int64_t column) {
      std::int64_t sum = 1;
      for (std::int64_t g = 0; g < p.group; ++g) {
        const std::int64_t pattern = p.layout_row(b, key_head * p.group + g, 0) / p.shape.rows;
        const std::int64_t at = pattern * p.shape.cols + column;
        sum += turned.indptr[at + 1] - turned.indptr[at];
      }
      return sum;
    };
    const auto for_columns = [&](auto&& body) {
      for (std::int64_t i = pair; i < end; ++i) {
        const std::int64_t b = i / p.key_heads;
        const std::int64_t cols =
            ceil_div(p.sequences[static_cast<std::size_t>(b)].keys, p.block.cols);
        body(b, i % p.key_heads, cols);
      }
    };
    for_columns([&](std::int64_t b, std::int64_t h, std::int64_t cols) {
      for (std::int64_t c = 0; c < cols; ++c) work += cost(b, h, c);
    });
    const std::int64_t share = std::max<std::int64_t>(work / (std::int64_t{16} * num_threads()), 1);
    for_columns([&](std::int64_t b, std::int64_t h, std::int64_t cols) {
      for (std::int64_t c = 0; c < cols;) {
        std::int64_t last = c, sum = 0;
        while (last < cols && (last == c || sum < share)) sum += cost(b, h, last++);
        tasks.push_back({.b = b, .key_head = h, .col0 = c, .col1 = last});
        c = last;
      }
    });
    parallel_for(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i) {
      const ColumnTask& task = tasks[static_cast<std::size_t>(i)];
      const std::int64_t own = (task.b * p.key_heads + task.key_head - pair) * p.group;
      key_pass(a, layout, turned, bit_places.data(), gather ? nullptr : &side,
               gather ? nullptr : sides.data() + own, task);
    });
  }
}

/// delta, and lse with +∞ in place of -∞, for all queries; dsinks.
void prepare(const Problem& p, const Operand& o, const Operand& d_o, const float* lse,
             const std::optional<TensorView>& d_lse, float* logs, float* delta,
             const std::optional<TensorView>& dsinks) {
  const std::int64_t pairs = p.batch() * p.heads;
  std::vector<double> sink_sums(static_cast<std::size_t>(pairs));
  parallel_for(pairs, [&](std::int64_t pair) {
    const std::int64_t b = pair / p.heads, head = pair % p.heads;
    const std::int64_t queries = p.sequences[static_cast<std::size_t>(b)].queries;
    const Scratch rows(kTileRows * p.value_depth * 8);
    auto* x = rows.as<float>();
    float* y = x + kTileRows * p.value_depth;
    const float sink =
        p.options.sinks ? static_cast<const float*>(p.options.sinks->data)[head] : -kInfinity;
    double sum = 0;
    for (std::int64_t i = 0; i < queries; i += kTileRows) {
      const std::int64_t count = std::min<std::int64_t>(kTileRows, queries - i);
      pack_rows(p.query(o, b, i, head), o.type, o.row, count, p.value_depth, p.value_depth, x);
      pack_rows(p.query(d_o, b, i, head), d_o.type, d_o.row, count, p.value_depth, p.value_depth,
                y);
      const std::int64_t place = p.lse_at(b, head, i);
      for (std::int64_t m = 0; m < count; ++m) {
        double dot = 0;
        for (std::int64_t d = 0; d < p.value_depth; ++d) {
          dot += static_cast<double>(x[m * p.value_depth + d]) *
                 static_cast<double>(y[m * p.value_depth + d]);
        }
        if (d_lse) dot -= static_cast<double>(static_cast<const float*>(d_lse->data)[place + m]);
        const float log = lse[place + m];
        const bool seen = log != -kInfinity;
        delta[place + m] = seen ? static_cast<float>(dot) : 0.0f;
        logs[place + m] = seen ? log : kInfinity;
        if (seen) sum -= std::exp(static_cast<double>(sink) - static_cast<double>(log)) * dot;
      }
    }
    sink_sums[static_cast<std::size_t>(pair)] = sum;
  });
  if (!dsinks) return;
  for (std::int64_t head = 0; head < p.heads; ++head) {
    double sum = 0;
    for (std::int64_t b = 0; b < p.batch(); ++b) {
      sum += sink_sums[static_cast<std::size_t>(b * p.heads + head)];
    }
    static_cast<float*>(dsinks->data)[head] = static_cast<float>(sum);
  }
}

}  // namespace

void attention_backward(const AttentionGradient& gradient, const TensorView& q, const TensorView& k,
                        const TensorView& v, const BlockLayout& layout,
                        const AttentionOptions& options, const AttentionGradients& gradients) {
  const FloatEnvironment floats;
  const Checker check("attention_backward");
  const Problem p(check, q, k, v, layout, options);
  check_attention_gradients(check, p.sizes, options, gradient, q, k, v, gradients, true);
  const std::int64_t logs = p.heads * (p.packed ? p.tokens : p.batch() * p.longest);
  const Scratch memory(logs * 8);
  auto* lse = memory.as<float>();
  float* delta = lse + logs;
  prepare(p, p.operand(gradient.o), p.operand(gradient.d_o),
          static_cast<const float*>(gradient.lse.data), gradient.d_lse, lse, delta,
          gradients.dsinks);
  float* dbias = gradients.dbias ? static_cast<float*>(gradients.dbias->data) : nullptr;
  if (dbias != nullptr) std::fill_n(dbias, gradients.dbias->numel(), 0.0f);
  const Backward a{.p = p,
                   .d_o = p.operand(gradient.d_o),
                   .dq = p.operand(gradients.dq),
                   .dk = p.operand(gradients.dk),
                   .dv = p.operand(gradients.dv),
                   .lse = lse,
                   .delta = delta,
                   .dbias = dbias,
                   .dbias_view = gradients.dbias ? &*gradients.dbias : nullptr,
                   .depth_width = round_up(p.depth, kKeyUnit),
                   .pairs = multiplies_pairs(p, p.operand(gradient.d_o))};
  const LayoutRows rows(layout);
  queries_pass(a, rows);
  keys_pass(a, rows);
}

}  // namespace gossamer
