#pragma once

// What the kernels of block attention take. Scores of a query are s_j = scale·q·k_j, softened to
// softcap·tanh(s_j/softcap), plus a bias; p_j = e^(s_j - lse), o = Σ p_j·v_j. All packed numbers
// are float32.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::detail {

/// Keys are packed as columns in groups that are padded to a multiple of this.
inline constexpr int kKeyUnit = 16;
/// The most keys of a segment, and of the segments whose scores are computed at a time.
inline constexpr int kSegmentKeys = 64;
inline constexpr int kChunkKeys = 128;
/// The most rows of a tile.
inline constexpr int kTileRows = 64;

/// Where one query may look, and what is added to its scores.
struct QueryRow {
  std::int32_t first, last;  // keys [first, last)
  std::int32_t bits_row;     // its row in the bits of a block
  const void* bias;          // of key 0; null where there is none
  float* bias_slope;         // where the gradient of that goes, of key 0; null where not wanted
};

/// How scores become what e is raised to.
struct ScoreRule {
  float scale;
  float softcap;  // 0: none
  DType bias_type;
};

/// Up to kSegmentKeys keys, packed.
struct KeySegment {
  const float* k;             // [depth, width]: keys are columns
  const float* v;             // [count, width of v]
  const std::int32_t* keys;   // their numbers, or null where they follow one another
  const std::uint8_t* bits;   // of the block's row 0, from this segment's first key on, or null
  std::int32_t key;           // the number of the first, where `keys` is null
  std::int32_t count, width;  // width: count rounded up to kKeyUnit
  bool masked;                // may a query's [first, last) leave out some?
};

/// Rows of bytes, each `stride` bytes after the one before, that are needed soon.
struct RowsAhead {
  const void* data;
  std::int64_t rows, bytes, stride;
};

/// One tile of queries and all of its segments: sums [rows, value_width] += Σ e^(s - maxima)·v,
/// with running maxima and the sums of the e^…, both kept for each row from before.
struct AttentionTileArgs {
  /// q, k and v are pairs of bfloat16 in 32 bits, multiplied and added two at a time: those of q
  /// and k along the depth, of which `depth` counts pairs, those of v along the keys. e^(…) is
  /// rounded to bfloat16, too. At level v4, where the processor has AVX512_BF16.
  bool pairs;
  const float* q;  // [rows, depth]
  std::int64_t rows, depth, value_width;
  const QueryRow* query;  // [rows]
  const KeySegment* segments;
  std::int64_t count;
  std::int64_t bits_pitch;  // bytes of a row of bits
  const RowsAhead* ahead;   // [ahead_count]: brought to the level-2 cache meanwhile
  std::int64_t ahead_count;
  ScoreRule rule;
  float* scores;  // [rows, kChunkKeys], scratch
  float* sums;    // [rows, value_width]
  float* maxima;  // [rows]
  float* totals;  // [rows]
};

/// Turns sums into results: sums /= totals and lse = maxima + ln(totals), or 0 and -∞ where totals
/// is 0.
struct AttentionFinishArgs {
  std::int64_t rows, value_width;
  float* sums;
  const float* maxima;
  const float* totals;
  float* lse;
};

/// Keys and values as they lie in memory: `count` rows, each a stride after the one before.
struct KeyRun {
  const void* k;
  const void* v;
  std::int32_t key, count;
};

/// What AttentionTileArgs is, for few queries and keys and values that are not packed: of one head
/// of keys or of several that have the same tokens. The runs are of the first head; what belongs to
/// the next one is q_head floats, k_head and v_head elements and sums_head floats further on.
struct AttentionRowsArgs {
  const float* q;  // [rows, depth]
  std::int64_t rows, depth, value_depth;
  const QueryRow* query;  // the same for all heads
  const KeyRun* runs;
  std::int64_t count;
  std::int64_t k_stride, v_stride;
  DType type;
  ScoreRule rule;
  int chunk;      // keys that are computed at a time, at most kChunkKeys
  float* scores;  // [heads, rows, kChunkKeys], scratch
  float* sums;    // [rows, sums_pitch]
  std::int64_t sums_pitch;
  float* maxima;
  float* totals;
  std::int64_t heads, q_head, k_head, v_head, sums_head;  // maxima and totals as sums
};

/// out [rows, cols] = a [rows, depth] · b [depth, cols], all packed; cols a multiple of kKeyUnit.
struct BlockScoresArgs {
  const float* a;
  const float* b;
  std::int64_t rows, depth, cols;
  float* out;
};

/// One side of the backward pass, packed: for queries, x = q and y = dO; for keys, x = k and y = v.
struct GradientSegment {
  const float* x_columns;    // [depth, width]
  const float* y_columns;    // [value_depth, width]
  const float* x_rows;       // [count, depth_width]
  const float* y_rows;       // queries: [count, value_width]
  const QueryRow* query;     // queries: [count]
  const float* lse;          // queries: [width], +∞ where nothing was seen and behind the last
  const float* delta;        // queries: [width]
  const std::int32_t* keys;  // keys: their numbers, or null where they follow one another
  const std::uint8_t* bits;  // of the block's row 0 and, for keys, this segment's first; or null
  std::int32_t key;          // keys: the number of the first, where `keys` is null
  std::int32_t count, width;
  bool masked;
};

/// With p = e^(s - lse) and ds = p·(dO·v - delta): for a tile of queries, x_sums += ds·k; for a
/// tile of keys (`keys_stay`), x_sums += dsᵀ·q and y_sums += pᵀ·dO, over all segments of the other
/// side, in order. The scale is not part of ds, the slope of the softcap is.
struct AttentionBackwardArgs {
  /// Operands are pairs of bfloat16, as in AttentionTileArgs: x, y, x_columns and y_columns along
  /// the depth, of which `depth` and `value_depth` count pairs then, x_rows and y_rows along the
  /// rows. p and ds are rounded to bfloat16 before they are multiplied.
  bool pairs;
  bool keys_stay;
  const float* x;  // [rows, depth]
  const float* y;  // [rows, value_depth]
  std::int64_t rows, depth, value_depth;
  std::int64_t depth_width, value_width;  // multiples of kKeyUnit
  const QueryRow* query;                  // queries: [rows]
  const float* lse;                       // queries: [rows]
  const float* delta;                     // queries: [rows]
  std::int32_t key, bits_at;              // keys: the first, and its column in the block
  const GradientSegment* segments;
  std::int64_t count;
  std::int64_t bits_pitch;
  ScoreRule rule;
  float* scores;  // [rows, kSegmentKeys], scratch
  float* slopes;  // [rows, kSegmentKeys], scratch
  float* x_sums;  // [rows, depth_width]
  float* y_sums;  // keys: [rows, value_width]
};

}  // namespace gossamer::detail
