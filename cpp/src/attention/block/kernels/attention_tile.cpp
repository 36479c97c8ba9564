// A tile of queries against packed keys, chunk by chunk: scores as a product of small matrices, an
// online softmax over each row (Dao et al., 2022), and a product that adds to the sums. Scores stay
// in the level-1 or level-2 cache.

#include "attention/block/args.h"
#include "simd/multiply_pairs.h"
#include "simd/scores.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int W = kLanes<float>;
using F = Vec<float>;

/// The keys of a segment that a query sees.
GOSSAMER_INLINE std::uint64_t seen(const KeySegment& segment, const QueryRow& query,
                                   std::int64_t bits_pitch) {
  std::uint64_t word = low_bits(segment.count);
  if (segment.masked) {
    if (segment.keys == nullptr) {
      word &= low_bits(std::int64_t{query.last} - segment.key) &
              ~low_bits(std::int64_t{query.first} - segment.key);
    } else {
      for (int n = 0; n < segment.count; ++n) {
        const std::int32_t key = segment.keys[n];
        if (key < query.first || key >= query.last) word &= ~(std::uint64_t{1} << n);
      }
    }
  }
  if (segment.bits != nullptr) {
    word &= read_bits(segment.bits + query.bits_row * bits_pitch, segment.count);
  }
  return word;
}

/// Columns of a segment, both ends multiples of kKeyUnit.
struct Columns {
  std::int64_t first, last;
};

/// Those that any of the queries [r, r + n) may see.
Columns seen_columns(const AttentionTileArgs& args, const KeySegment& segment, std::int64_t r,
                     std::int64_t n) {
  std::int64_t first = segment.width, last = 0;
  for (const QueryRow* query = args.query + r; query < args.query + r + n; ++query) {
    if (query->first >= query->last) continue;
    const std::int64_t from = std::int64_t{query->first} - segment.key;
    const std::int64_t to = std::int64_t{query->last} - segment.key;
    first = from < first ? from : first;
    last = to > last ? to : last;
  }
  if (first < 0) first = 0;
  return {first / kKeyUnit * kKeyUnit,
          min_i64((last + kKeyUnit - 1) / kKeyUnit * kKeyUnit, segment.width)};
}

/// Calls body(row, rows, columns) for a segment: for all rows at once or, where queries do not see
/// all of it, for some after the others, so that what none of them sees is not computed.
template <class F>
GOSSAMER_INLINE void for_seen(const AttentionTileArgs& args, const KeySegment& segment, F&& body) {
  constexpr std::int64_t kRows = 12;
  if (!segment.masked || segment.keys != nullptr) {
    body(std::int64_t{0}, args.rows, Columns{0, segment.width});
    return;
  }
  for (std::int64_t r = 0; r < args.rows;) {
    const std::int64_t n = args.rows - r < 2 * kRows ? args.rows - r : kRows;
    const Columns columns = seen_columns(args, segment, r, n);
    if (columns.first < columns.last) body(r, n, columns);
    r += n;
  }
}

/// Lanes [n, n+W) of a query's bias at a segment's keys.
template <class B>
GOSSAMER_INLINE F load_bias(const KeySegment& segment, const void* row, int n) {
  const B* bias = static_cast<const B*>(row);
  if (segment.keys == nullptr) {
    const B* from = bias + segment.key + n;
    if (n + W <= segment.count) return load_real<W>(from);
    return n < segment.count ? load_first<W>(from, segment.count - n) : F{};
  }
  F v = {};
  for (int i = 0; i < W && n + i < segment.count; ++i) v[i] = to_float(bias[segment.keys[n + i]]);
  return v;
}

/// scale, softcap and bias of one row of scores.
template <class B>
void apply_rule(const ScoreRule& rule, const KeySegment& segment, const void* bias, float* s) {
  for (int n = 0; n < segment.width; n += W) {
    F v = load<W>(s + n) * rule.scale;
    if (rule.softcap != 0) v = tanh_vec<W>(v * (1.0f / rule.softcap)) * rule.softcap;
    if (bias != nullptr) v += load_bias<B>(segment, bias, n);
    store<W>(s + n, v);
  }
}

void apply_rule(const ScoreRule& rule, const KeySegment& segment, const void* bias, float* s) {
  with_float_type(rule.bias_type, [&](auto type) {
    using B = typename decltype(type)::type;
    if constexpr (sizeof(B) < 8) apply_rule<B>(rule, segment, bias, s);
  });
}

/// Makes the scores of a segment what e is raised to but for the factor that softmax_rows takes:
/// -∞ where a key is not seen.
void mask_segment(const AttentionTileArgs& args, const KeySegment& segment, bool by_rule,
                  float* scores) {
  const std::uint64_t all = low_bits(segment.width);
  if (!by_rule && !segment.masked && segment.bits == nullptr && segment.count == segment.width) {
    return;
  }
  for (std::int64_t r = 0; r < args.rows; ++r) {
    float* s = scores + r * kChunkKeys;
    if (by_rule) apply_rule(args.rule, segment, args.query[r].bias, s);
    const std::uint64_t word = seen(segment, args.query[r], args.bits_pitch);
    if (word == all) continue;
    for (int n = 0; n < segment.width; n += W) {
      store<W>(s + n, where_bits<W>(word >> n, load<W>(s + n), kMinusInfinity));
    }
  }
}

/// scores = e^(scores·factor - maxima) with new maxima in rows [r, r+R), rounded to bfloat16 and
/// side by side in the first half of each row where `pairs`; totals and sums are scaled to the
/// maxima. Several rows hide the latency of the exponential.
template <int R>
__attribute__((noinline)) void softmax_some(const AttentionTileArgs& args, std::int64_t r,
                                            int width, float factor) {
  float* s = args.scores + r * kChunkKeys;
  const bool pairs = args.pairs;
  F top[R];
  for (int i = 0; i < R; ++i) top[i] = load<W>(s + i * kChunkKeys);
  for (int n = W; n < width; n += W) {
    for (int i = 0; i < R; ++i) {
      const F v = load<W>(s + i * kChunkKeys + n);
      top[i] = v > top[i] ? v : top[i];
    }
  }
  float maximum[R], shift[R];
  for (int i = 0; i < R; ++i) {
    const float before = args.maxima[r + i], here = max_of<W>(top[i]) * factor;
    maximum[i] = here > before ? here : before;
    // Where no key has been seen, everything is 0, and not e^(-∞ + ∞).
    shift[i] = maximum[i] == kMinusInfinity ? 0.0f : maximum[i];
  }
  F total[R] = {};
  for (int n = 0; n < width; n += W) {
    for (int i = 0; i < R; ++i) {
      float* row = s + i * kChunkKeys;
      const F p = exp_or_zero<W>(load<W>(row + n) * factor - shift[i]);
      if (pairs) {
        store_for_pairs(row + n / 2, p);
      } else {
        store<W>(row + n, p);
      }
      total[i] += p;
    }
  }
  for (int i = 0; i < R; ++i) {
    const float before = args.maxima[r + i];
    float kept = 1;
    if (maximum[i] != before) {
      kept = exp_or_zero<W>(broadcast<W>(before - shift[i]))[0];
      args.maxima[r + i] = maximum[i];
      float* sums = args.sums + (r + i) * args.value_width;
      for (std::int64_t d = 0; d < args.value_width; d += W) {
        store<W>(sums + d, load<W>(sums + d) * kept);
      }
    }
    args.totals[r + i] = args.totals[r + i] * kept + sum_of<W>(total[i]);
  }
}

void softmax_rows(const AttentionTileArgs& args, int width, float factor) {
  constexpr int R = 4;
  std::int64_t r = 0;
  for (; r + R <= args.rows; r += R) softmax_some<R>(args, r, width, factor);
  for (; r < args.rows; ++r) softmax_some<1>(args, r, width, factor);
}

/// Brings rows to the level-2 cache, a few lines at a time, between the parts of products.
class Fetch {
 public:
  explicit Fetch(const AttentionTileArgs& args)
      : next_(args.ahead), end_(args.ahead + args.ahead_count) {
    constexpr std::int64_t kCols = 64, kRows = 6;  // of a part of a product, about
    std::int64_t lines = 0, parts = 0;
    for (const RowsAhead* r = next_; r < end_; ++r) {
      lines += r->rows * ((r->bytes + kLine - 1) / kLine);
    }
    for (std::int64_t s = 0; s < args.count; ++s) {
      parts += (args.segments[s].width + kCols - 1) / kCols;
      parts += (args.value_width + kCols - 1) / kCols;
    }
    parts *= (args.rows + kRows - 1) / kRows;
    each_ = parts > 0 ? (lines + parts - 1) / parts : 0;
  }

  GOSSAMER_INLINE void operator()() {
    for (std::int64_t n = 0; n < each_ && next_ < end_; ++n) {
      const char* row = static_cast<const char*>(next_->data) + row_ * next_->stride;
      __builtin_prefetch(row + at_, 0, 2);
      at_ += kLine;
      if (at_ < next_->bytes) continue;
      at_ = 0;
      if (++row_ < next_->rows) continue;
      row_ = 0;
      ++next_;
    }
  }

 private:
  static constexpr std::int64_t kLine = 64;
  const RowsAhead* next_;
  const RowsAhead* end_;
  std::int64_t each_ = 0, row_ = 0, at_ = 0;
};

}  // namespace

void attention_tile(const AttentionTileArgs& args);
void attention_tile(const AttentionTileArgs& args) {
  bool by_rule = args.rule.softcap != 0 || !(args.rule.scale > 0);
  for (std::int64_t r = 0; r < args.rows; ++r) by_rule |= args.query[r].bias != nullptr;
  const float factor = by_rule ? 1.0f : args.rule.scale;
  Fetch fetch(args);
  for (std::int64_t first = 0; first < args.count;) {
    int width = 0;
    std::int64_t last = first;
    for (; last < args.count && width + args.segments[last].width <= kChunkKeys; ++last) {
      const KeySegment& segment = args.segments[last];
      float* scores = args.scores + width;
      for_seen(args, segment, [&](std::int64_t r, std::int64_t rows, Columns seen) {
        multiply_as<false>(args.pairs, rows, seen.last - seen.first, args.depth,
                           args.q + r * args.depth, args.depth, segment.k + seen.first,
                           segment.width, scores + r * kChunkKeys + seen.first, kChunkKeys, fetch);
      });
      mask_segment(args, segment, by_rule, scores);
      width += segment.width;
    }
    softmax_rows(args, width, factor);
    width = 0;
    while (first < last) {
      KeySegment segment = args.segments[first++];
      const int step = args.pairs ? 2 : 1;
      // Values of whole segments that lie one behind the other are added at once.
      while (first < last && !segment.masked && !args.segments[first].masked &&
             segment.count == segment.width &&
             args.segments[first].v == segment.v + segment.count / step * args.value_width) {
        segment.count += args.segments[first].count;
        segment.width += args.segments[first].width;
        ++first;
      }
      for_seen(args, segment, [&](std::int64_t r, std::int64_t rows, Columns seen) {
        const std::int64_t keys = min_i64(seen.last, segment.count) - seen.first;
        multiply_as<true>(args.pairs, rows, args.value_width, (keys + step - 1) / step,
                          args.scores + r * kChunkKeys + (width + seen.first) / step, kChunkKeys,
                          segment.v + seen.first / step * args.value_width, args.value_width,
                          args.sums + r * args.value_width, args.value_width, fetch);
      });
      width += segment.width;
    }
  }
}

void attention_block_scores(const BlockScoresArgs& args);
void attention_block_scores(const BlockScoresArgs& args) {
  multiply<false>(args.rows, args.cols, args.depth, args.a, args.depth, args.b, args.cols, args.out,
                  args.cols);
}

void attention_finish(const AttentionFinishArgs& args);
void attention_finish(const AttentionFinishArgs& args) {
  for (std::int64_t r = 0; r < args.rows; ++r) {
    float* sums = args.sums + r * args.value_width;
    const float total = args.totals[r];
    const float share = total == 0 ? 0.0f : 1.0f / total;
    for (std::int64_t d = 0; d < args.value_width; d += W) {
      // Where nothing was seen, a NaN among the values must not show.
      store<W>(sums + d, total == 0 ? F{} : load<W>(sums + d) * share);
    }
    args.lse[r] = total == 0 ? kMinusInfinity : args.maxima[r] + __builtin_logf(total);
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
