// Block attention, forward.

#include "gossamer/attention.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "attention/block/kernels.h"
#include "attention/block/problem.h"
#include "attention/block/tile.h"
#include "base/buffer.h"
#include "base/floats.h"
#include "base/kernels.h"
#include "base/scratch.h"
#include "base/work.h"
#include "formats/layout/layout_rows.h"

namespace gossamer {
using namespace detail;
namespace {

/// So many queries of a row of the layout, or fewer, meet the keys where they lie: packing keys
/// costs as much as about four products with them.
constexpr std::int64_t kFewRows = 16;
/// Blocks of fewer columns are packed for each tile that needs them, 64 keys at a time.
constexpr std::int64_t kFewColumns = 16;
/// How much is packed at a time for each thread, unless one head needs more: what stays in the
/// level-3 cache.
constexpr std::int64_t kPackedBytes = std::int64_t{8} << 20;

/// Heads of keys and values, packed: those of pairs [pair0, pair1), b·key_heads + head.
struct PackedKeys {
  PackedKeys(const Problem& problem, bool in_pairs, std::int64_t first, std::int64_t last)
      : p(problem),
        pairs(in_pairs),
        cut(problem.block.cols),
        blocks(problem.shape.cols),
        columns(blocks * cut.width),
        k_size(columns * problem.depth / (pairs ? 2 : 1)),
        v_size(columns * problem.value_width / (pairs ? 2 : 1)),
        pair0(first),
        memory((last - first) * bytes(problem, pairs)) {
    const std::int64_t step = std::max<std::int64_t>(512 / p.block.cols, 1);  // blocks of a task
    const std::int64_t cuts = ceil_div(blocks, step);
    parallel_for((last - first) * cuts, [&](std::int64_t task) {
      const std::int64_t pair = first + task / cuts, block = task % cuts * step;
      for (std::int64_t c = block; c < std::min(block + step, blocks); ++c) pack(pair, c);
    });
  }

  /// Of one head.
  [[nodiscard]] static std::int64_t bytes(const Problem& problem, bool pairs) {
    const BlockCut cut(problem.block.cols);
    return (pairs ? 2 : 4) * problem.shape.cols * cut.width * (problem.depth + problem.value_width);
  }

  /// Of the first key of a segment.
  [[nodiscard]] float* k(std::int64_t pair, std::int64_t block, std::int64_t segment) const {
    return memory.as<float>() + (pair - pair0) * (k_size + v_size) +
           column(block, segment) * p.depth / (pairs ? 2 : 1);
  }
  [[nodiscard]] float* v(std::int64_t pair, std::int64_t block, std::int64_t segment) const {
    return memory.as<float>() + (pair - pair0) * (k_size + v_size) + k_size +
           column(block, segment) * p.value_width / (pairs ? 2 : 1);
  }

  const Problem& p;
  bool pairs;
  BlockCut cut;
  std::int64_t blocks, columns, k_size, v_size, pair0;
  Scratch memory;

 private:
  [[nodiscard]] std::int64_t column(std::int64_t block, std::int64_t segment) const noexcept {
    return block * cut.width + segment * kSegmentKeys;
  }
  void pack(std::int64_t pair, std::int64_t block) const {
    const std::int64_t b = pair / p.key_heads, head = pair % p.key_heads;
    const std::int64_t keys = p.sequences[static_cast<std::size_t>(b)].keys;
    for (std::int64_t s = 0; s < cut.segments; ++s) {
      const std::int64_t key = block * p.block.cols + s * kSegmentKeys;
      const std::int64_t count = std::min(cut.cols(s), keys - key);
      if (count <= 0) return;
      const std::byte* from = p.key(p.k, b, key, head);
      if (pairs) {
        pack_columns(from, DType::f32, p.k.row / 2, count, p.depth / 2, cut.padded(s),
                     k(pair, block, s));
        pack_pair_rows(p.key(p.v, b, key, head), p.v.row, count, p.value_depth, p.value_width,
                       v(pair, block, s));
        continue;
      }
      pack_columns(from, p.k.type, p.k.row, count, p.depth, cut.padded(s), k(pair, block, s));
      pack_rows(p.key(p.v, b, key, head), p.v.type, p.v.row, count, p.value_depth, p.value_width,
                v(pair, block, s));
    }
  }
};

/// How the keys of a problem are met.
struct Plan {
  Plan(const Problem& p, const LayoutRows& layout)
      : few(layout.bits == nullptr && p.block.rows * p.shared() <= kFewRows),
        packed(!few && (p.block.cols >= kFewColumns || layout.bits != nullptr)),
        pairs(packed && multiplies_pairs(p.k, p.depth)),
        heads(p.batch() * p.key_heads) {
    const std::int64_t head = std::max<std::int64_t>(PackedKeys::bytes(p, false), 1);
    wave = std::max<std::int64_t>(kPackedBytes * num_threads() / head, 1);
    if (!packed || wave > heads) wave = heads;
    const std::int64_t rows = p.shape.batch * p.shape.heads * p.shape.rows;
    for (std::int64_t r = 0; r < rows; ++r) {
      longest = std::max<std::int64_t>(longest, layout.indptr[r + 1] - layout.indptr[r]);
    }
  }

  bool few, packed, pairs;
  std::int64_t heads;        // of keys, of all sequences
  std::int64_t wave;         // heads that are computed, and packed, at a time
  std::int64_t longest = 0;  // blocks of a row of the layout
};

/// A tile of queries while it is computed.
class ForwardTile {
 public:
  ForwardTile(const Problem& problem, bool pairs, const Operand& out, float* lse)
      : p_(problem), pairs_(pairs), out_(out), lse_(lse), memory_(bytes(problem)) {
    q_ = memory_.as<float>();
    scores_ = q_ + kTileRows * p_.depth;
    sums_ = scores_ + kTileRows * kChunkKeys;
    maxima_ = sums_ + kTileRows * p_.value_width;
    totals_ = maxima_ + kTileRows;
    logs_ = totals_ + kTileRows;
  }

  [[nodiscard]] static std::int64_t bytes(const Problem& problem) {
    return 4 * kTileRows * (problem.depth + kChunkKeys + problem.value_width + 3);
  }

  /// Begins with some queries: reads them and sets their sums to nothing, or their sinks.
  void begin(const TileRows& rows) {
    rows_ = &rows;
    rows.for_runs([&](std::int64_t head, std::int64_t i, std::int64_t at, std::int64_t count) {
      load_queries(p_.query(p_.q, rows.b, i, head), at, count);
      float sink = -std::numeric_limits<float>::infinity();
      if (p_.options.sinks) sink = static_cast<const float*>(p_.options.sinks->data)[head];
      for (std::int64_t m = at; m < at + count; ++m) {
        query_[m] = p_.query_row(rows.b, head, i + m - at);
        maxima_[m] = sink;
        totals_[m] = sink == -std::numeric_limits<float>::infinity() ? 0.0f : 1.0f;
      }
    });
    std::fill_n(sums_, rows.count * p_.value_width, 0.0f);
    span_ = KeySpan(query_, rows.count);
    ahead_count_ = 0;
  }

  [[nodiscard]] const KeySpan& span() const noexcept { return span_; }

  /// Has where the results go in the cache when the products of the next `add` are done.
  void look_ahead() {
    const std::int64_t size = size_of(out_.type);
    rows_->for_runs([&](std::int64_t head, std::int64_t i, std::int64_t, std::int64_t count) {
      if (ahead_count_ == kMostAhead) return;
      ahead_[ahead_count_++] = {.data = p_.query(out_, rows_->b, i, head),
                                .rows = count,
                                .bytes = p_.value_depth * size,
                                .stride = out_.row * size};
    });
  }

  void add(const KeySegment* segments, std::int64_t count, std::int64_t bits_pitch) const {
    block_attention_kernels().attention_tile({.pairs = pairs_,
                                              .q = q_,
                                              .rows = rows_->count,
                                              .depth = pairs_ ? p_.depth / 2 : p_.depth,
                                              .value_width = p_.value_width,
                                              .query = query_,
                                              .segments = segments,
                                              .count = count,
                                              .bits_pitch = bits_pitch,
                                              .ahead = ahead_,
                                              .ahead_count = ahead_count_,
                                              .rule = p_.rule,
                                              .scores = scores_,
                                              .sums = sums_,
                                              .maxima = maxima_,
                                              .totals = totals_});
  }

  void add(const KeyRun* runs, std::int64_t count) const {
    block_attention_kernels().attention_rows({.q = q_,
                                              .rows = rows_->count,
                                              .depth = p_.depth,
                                              .value_depth = p_.value_depth,
                                              .query = query_,
                                              .runs = runs,
                                              .count = count,
                                              .k_stride = p_.k.row,
                                              .v_stride = p_.v.row,
                                              .type = p_.k.type,
                                              .rule = p_.rule,
                                              .chunk = kChunkKeys,
                                              .scores = scores_,
                                              .sums = sums_,
                                              .sums_pitch = p_.value_width,
                                              .maxima = maxima_,
                                              .totals = totals_,
                                              .heads = 1,
                                              .q_head = 0,
                                              .k_head = 0,
                                              .v_head = 0,
                                              .sums_head = 0});
  }

  /// Writes the results.
  void finish() const {
    block_attention_kernels().attention_finish({.rows = rows_->count,
                                                .value_width = p_.value_width,
                                                .sums = sums_,
                                                .maxima = maxima_,
                                                .totals = totals_,
                                                .lse = logs_});
    rows_->for_runs([&](std::int64_t head, std::int64_t i, std::int64_t at, std::int64_t count) {
      store_rows(sums_ + at * p_.value_width, p_.value_width, count, p_.value_depth,
                 p_.query(out_, rows_->b, i, head), out_.type, out_.row);
      std::copy_n(logs_ + at, count, lse_ + p_.lse_at(rows_->b, head, i));
    });
  }

 private:
  void load_queries(const std::byte* from, std::int64_t at, std::int64_t count) {
    if (!pairs_) {
      pack_rows(from, p_.q.type, p_.q.row, count, p_.depth, p_.depth, q_ + at * p_.depth);
      return;
    }
    auto* to = reinterpret_cast<std::byte*>(q_) + at * p_.depth * 2;
    for (std::int64_t m = 0; m < count; ++m, from += p_.q.row * 2, to += p_.depth * 2) {
      std::copy_n(from, p_.depth * 2, to);
    }
  }

  static constexpr std::int64_t kMostAhead = 16;
  const Problem& p_;
  bool pairs_;
  Operand out_;
  float* lse_;
  Scratch memory_;
  const TileRows* rows_ = nullptr;
  float *q_, *scores_, *sums_, *maxima_, *totals_, *logs_;
  QueryRow query_[kTileRows];
  KeySpan span_;
  RowsAhead ahead_[kMostAhead];
  std::int64_t ahead_count_ = 0;
};

/// The rows of a task against packed keys.
void run_packed(const Problem& p, const LayoutRows& layout, const Plan& plan,
                const PackedKeys& keys, const RowTask& task, ForwardTile& tile) {
  const std::int64_t pitch = (p.block.cols + 7) / 8;
  const std::int64_t pair = task.b * p.key_heads + task.head / p.group;
  const std::int64_t length = p.sequences[static_cast<std::size_t>(task.b)].keys;
  std::vector<KeySegment> segments;
  segments.reserve(static_cast<std::size_t>(plan.longest * keys.cut.segments));
  for (std::int64_t row = task.row0; row < task.row1; ++row) {
    const std::int64_t r = p.layout_row(task.b, task.head, row);
    for_tiles(p, task, row, [&](const TileRows& rows) {
      tile.begin(rows);
      segments.clear();
      const std::uint8_t* bits = layout.bits_of(r);
      for (std::int64_t e = layout.indptr[r]; e < layout.indptr[r + 1]; ++e) {
        const std::uint8_t* own = nullptr;
        if (layout.has_bits(e)) {
          own = bits;
          bits += layout.bit_bytes;
        }
        const std::int64_t block = layout.indices[e];
        for (std::int64_t s = 0; s < keys.cut.segments; ++s) {
          const std::int64_t key = block * p.block.cols + s * kSegmentKeys;
          const std::int64_t count = std::min(keys.cut.cols(s), length - key);
          if (count <= 0 || !tile.span().touches(key, count)) continue;
          segments.push_back({.k = keys.k(pair, block, s),
                              .v = keys.v(pair, block, s),
                              .keys = nullptr,
                              .bits = own == nullptr ? nullptr : own + s * kSegmentKeys / 8,
                              .key = static_cast<std::int32_t>(key),
                              .count = static_cast<std::int32_t>(count),
                              .width = static_cast<std::int32_t>(keys.cut.padded(s)),
                              .masked = !tile.span().contains(key, count)});
        }
      }
      tile.look_ahead();
      tile.add(segments.data(), static_cast<std::int64_t>(segments.size()), pitch);
      tile.finish();
    });
  }
}

/// Keys that are gathered from narrow blocks, two segments at a time.
class Gathered {
 public:
  explicit Gathered(const Problem& problem) : p_(problem), memory_(bytes(problem)) {}

  [[nodiscard]] static std::int64_t bytes(const Problem& problem) {
    return 4 * kSegmentKeys * (3 * problem.depth + 2 * problem.value_width);
  }

  void begin(std::int64_t b, std::int64_t head) {
    b_ = b;
    head_ = head;
  }
  void add(std::int64_t key, std::int64_t count, bool masked, const ForwardTile& tile) {
    for (std::int64_t n = 0; n < count; ++n) {
      keys_[count_++] = static_cast<std::int32_t>(key + n);
      masked_ = masked_ || masked;
      if (count_ == kChunkKeys) flush(tile);
    }
  }
  void flush(const ForwardTile& tile) {
    if (count_ == 0) return;
    KeySegment segments[2];
    float* rows = memory_.as<float>();
    float* to = rows + kSegmentKeys * p_.depth;
    std::int64_t used = 0;
    for (std::int64_t at = 0; at < count_; at += kSegmentKeys) {
      const std::int64_t n = std::min<std::int64_t>(kSegmentKeys, count_ - at);
      const std::int64_t width = round_up(n, kKeyUnit);
      float* v = to + kSegmentKeys * p_.depth;
      for (std::int64_t i = 0; i < n;) {
        std::int64_t end = i + 1;
        while (end < n && keys_[at + end] == keys_[at + i] + end - i) ++end;
        const std::int64_t key = keys_[at + i];
        pack_rows(p_.key(p_.k, b_, key, head_), p_.k.type, p_.k.row, end - i, p_.depth, p_.depth,
                  rows + i * p_.depth);
        pack_rows(p_.key(p_.v, b_, key, head_), p_.v.type, p_.v.row, end - i, p_.value_depth,
                  p_.value_width, v + i * p_.value_width);
        i = end;
      }
      pack_columns(reinterpret_cast<const std::byte*>(rows), DType::f32, p_.depth, n, p_.depth,
                   width, to);
      segments[used++] = {.k = to,
                          .v = v,
                          .keys = keys_ + at,
                          .bits = nullptr,
                          .key = 0,
                          .count = static_cast<std::int32_t>(n),
                          .width = static_cast<std::int32_t>(width),
                          .masked = masked_};
      to = v + kSegmentKeys * p_.value_width;
    }
    tile.add(segments, used, 0);
    count_ = 0;
    masked_ = false;
  }

 private:
  const Problem& p_;
  Scratch memory_;
  std::int64_t b_ = 0, head_ = 0, count_ = 0;
  bool masked_ = false;
  std::int32_t keys_[kChunkKeys];
};

/// The rows of a task against keys that lie where they lie: few queries each, or narrow blocks.
void run_unpacked(const Problem& p, const LayoutRows& layout, const Plan& plan, const RowTask& task,
                  ForwardTile& tile) {
  const std::int64_t key_head = task.head / p.group;
  const std::int64_t length = p.sequences[static_cast<std::size_t>(task.b)].keys;
  const bool few = plan.few;
  std::vector<KeyRun> runs;
  if (few) runs.reserve(static_cast<std::size_t>(plan.longest));
  Gathered gathered(p);
  gathered.begin(task.b, key_head);
  const std::byte* k = p.key(p.k, task.b, 0, key_head);
  const std::byte* v = p.key(p.v, task.b, 0, key_head);
  const std::int64_t size = size_of(p.k.type);
  for (std::int64_t row = task.row0; row < task.row1; ++row) {
    const std::int64_t r = p.layout_row(task.b, task.head, row);
    for_tiles(p, task, row, [&](const TileRows& rows) {
      tile.begin(rows);
      runs.clear();
      for (std::int64_t e = layout.indptr[r]; e < layout.indptr[r + 1]; ++e) {
        const std::int64_t key = layout.indices[e] * p.block.cols;
        const std::int64_t count = std::min(p.block.cols, length - key);
        if (count <= 0 || !tile.span().touches(key, count)) continue;
        if (!few) {
          gathered.add(key, count, !tile.span().contains(key, count), tile);
        } else if (!runs.empty() && runs.back().key + runs.back().count == key) {
          runs.back().count += static_cast<std::int32_t>(count);
        } else {
          runs.push_back({.k = k + key * p.k.row * size,
                          .v = v + key * p.v.row * size,
                          .key = static_cast<std::int32_t>(key),
                          .count = static_cast<std::int32_t>(count)});
        }
      }
      if (few) {
        tile.add(runs.data(), static_cast<std::int64_t>(runs.size()));
      } else {
        gathered.flush(tile);
      }
      tile.finish();
    });
  }
}

}  // namespace

void attention(const TensorView& q, const TensorView& k, const TensorView& v,
               const BlockLayout& layout, const AttentionOptions& options, const TensorView& o,
               const TensorView& lse) {
  const FloatEnvironment floats;
  const Checker check("attention");
  const Problem p(check, q, k, v, layout, options);
  check_attention_results(check, p.sizes, options, q, k, v, o, lse);
  if (o.numel() == 0 && lse.numel() == 0) return;
  if (is_contiguous(o)) ask_for_huge_pages(o.data, o.numel() * size_of(o.dtype));
  const LayoutRows rows(layout);
  const Plan plan(p, rows);
  const Operand out = p.operand(o);
  auto* logs = static_cast<float*>(lse.data);
  const double nanoseconds = static_cast<double>(layout.nblocks() * p.block.rows) *
                             static_cast<double>(p.block.cols * p.depth) * 0.02;
  for (std::int64_t pair = 0; pair < plan.heads; pair += plan.wave) {
    const std::int64_t end = std::min(pair + plan.wave, plan.heads);
    const std::vector<RowTask> tasks = cut_tasks(p, pair, end);
    const auto run = [&](auto&& body) {
      for_tasks(static_cast<std::int64_t>(tasks.size()), nanoseconds, [&](std::int64_t i) {
        ForwardTile tile(p, plan.pairs, out, logs);
        body(tasks[static_cast<std::size_t>(i)], tile);
      });
    };
    if (plan.packed) {
      const PackedKeys keys(p, plan.pairs, pair, end);
      run([&](const RowTask& task, ForwardTile& tile) {
        run_packed(p, rows, plan, keys, task, tile);
      });
    } else {
      run([&](const RowTask& task, ForwardTile& tile) { run_unpacked(p, rows, plan, task, tile); });
    }
  }
}

std::int64_t attention_workspace(const TensorView& q, const TensorView& k, const TensorView& v,
                                 const BlockLayout& layout, const AttentionOptions& options) {
  const FloatEnvironment floats;
  const Problem p(Checker("attention_workspace"), q, k, v, layout, options);
  const LayoutRows rows(layout);
  const Plan plan(p, rows);
  if (plan.heads == 0) return 0;
  const std::int64_t threads = num_threads();
  const auto size = [](std::size_t bytes) { return static_cast<std::int64_t>(bytes); };
  std::int64_t thread = ForwardTile::bytes(p);
  if (plan.packed) {
    thread += plan.longest * BlockCut(p.block.cols).segments * size(sizeof(KeySegment));
  } else {
    thread += Gathered::bytes(p) + (plan.few ? plan.longest * size(sizeof(KeyRun)) : 0);
  }
  // Tasks are about 16 for each thread, and one for each head at least; their list grows twofold.
  const std::int64_t tasks = 3 * (std::int64_t{32} * threads + plan.wave * p.group);
  return (plan.packed ? plan.wave * PackedKeys::bytes(p, plan.pairs) : 0) + threads * thread +
         tasks * size(sizeof(RowTask)) + 2 * p.batch() * size(sizeof(Sequence)) +
         size(rows.first_bits.size()) * 8;
}

}  // namespace gossamer
