// The backward pass of one tile, queries or keys, against all segments of the other side: scores
// and dO·v are computed anew, as products of small matrices, and p and ds follow from lse and
// delta.

#include "attention/block/args.h"
#include "simd/multiply_pairs.h"
#include "simd/scores.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int W = kLanes<float>;
using F = Vec<float>;

/// Row r of the tile against the segment: bits of what is seen.
std::uint64_t seen(const AttentionBackwardArgs& args, const GradientSegment& segment,
                   std::int64_t r) {
  std::uint64_t word = low_bits(segment.count);
  if (args.keys_stay) {
    const std::int64_t key = args.key + r, column = args.bits_at + r;
    for (int n = 0; n < segment.count; ++n) {
      const QueryRow& query = segment.query[n];
      bool sees = key >= query.first && key < query.last;
      if (segment.bits != nullptr) {
        const std::uint8_t* bits = segment.bits + query.bits_row * args.bits_pitch;
        sees = sees && (bits[column / 8] >> (column % 8) & 1) != 0;
      }
      if (!sees) word &= ~(std::uint64_t{1} << n);
    }
    return word;
  }
  const QueryRow& query = args.query[r];
  if (segment.keys == nullptr) {
    word &= low_bits(std::int64_t{query.last} - segment.key) &
            ~low_bits(std::int64_t{query.first} - segment.key);
  } else {
    for (int n = 0; n < segment.count; ++n) {
      const std::int32_t key = segment.keys[n];
      if (key < query.first || key >= query.last) word &= ~(std::uint64_t{1} << n);
    }
  }
  if (segment.bits != nullptr) {
    word &= read_bits(segment.bits + query.bits_row * args.bits_pitch, segment.count);
  }
  return word;
}

/// Lanes [n, n+W) of the bias of row r.
template <class B>
GOSSAMER_INLINE F load_bias(const AttentionBackwardArgs& args, const GradientSegment& segment,
                            std::int64_t r, int n) {
  if (args.keys_stay) {
    F v = {};
    for (int i = 0; i < W && n + i < segment.count; ++i) {
      v[i] = to_float(static_cast<const B*>(segment.query[n + i].bias)[args.key + r]);
    }
    return v;
  }
  const B* bias = static_cast<const B*>(args.query[r].bias);
  if (segment.keys != nullptr) {
    F v = {};
    for (int i = 0; i < W && n + i < segment.count; ++i) v[i] = to_float(bias[segment.keys[n + i]]);
    return v;
  }
  const B* from = bias + segment.key + n;
  if (n + W <= segment.count) return load_real<W>(from);
  return n < segment.count ? load_first<W>(from, segment.count - n) : F{};
}

bool has_bias(const AttentionBackwardArgs& args, const GradientSegment& segment) {
  return (args.keys_stay ? segment.query : args.query)->bias != nullptr;
}

/// Each element is of one segment, so that it is written once.
GOSSAMER_INLINE void store_bias_slope(const GradientSegment& segment, float* row, int n, F ds) {
  if (row == nullptr) return;
  if (segment.keys != nullptr) {
    for (int i = 0; i < W && n + i < segment.count; ++i) row[segment.keys[n + i]] = ds[i];
  } else if (n + W <= segment.count) {
    store<W>(row + segment.key + n, ds);
  } else if (n < segment.count) {
    store_first<W>(row + segment.key + n, ds, segment.count - n);
  }
}

/// Lanes [n, n+W) of a row that is multiplied next; pairs of bfloat16 fill its first half.
GOSSAMER_INLINE void store_factor(bool pairs, float* row, int n, F v) {
  if (pairs) {
    store_for_pairs(row + n / 2, v);
  } else {
    store<W>(row + n, v);
  }
}

/// s becomes p, and slope, which holds dO·v, becomes ds without the scale.
template <class B, bool Keys>
void probabilities(const AttentionBackwardArgs& args, const GradientSegment& segment) {
  const ScoreRule& rule = args.rule;
  const bool bias = has_bias(args, segment);
  const std::uint64_t all = low_bits(segment.width);
  const bool whole = !segment.masked && segment.bits == nullptr && segment.count == segment.width;
  for (std::int64_t r = 0; r < args.rows; ++r) {
    const std::uint64_t word = whole ? all : seen(args, segment, r);
    float* s = args.scores + r * kSegmentKeys;
    float* slope = args.slopes + r * kSegmentKeys;
    for (int n = 0; n < segment.width; n += W) {
      F v = load<W>(s + n) * rule.scale, bend = broadcast<W>(1.0f);
      if (rule.softcap != 0) {
        const F t = tanh_vec<W>(v * (1.0f / rule.softcap));
        v = t * rule.softcap;
        bend = 1.0f - t * t;
      }
      if (bias) v += load_bias<B>(args, segment, r, n);
      F lse, delta;
      if constexpr (Keys) {
        lse = load<W>(segment.lse + n);
        delta = load<W>(segment.delta + n);
      } else {
        lse = broadcast<W>(args.lse[r]);
        delta = broadcast<W>(args.delta[r]);
      }
      F p = exp_or_zero<W>(v - lse);
      F ds = p * (load<W>(slope + n) - delta);
      if (word != all) {
        p = where_bits<W>(word >> n, p, 0.0f);
        ds = where_bits<W>(word >> n, ds, 0.0f);
      }
      store_factor(args.pairs, s, n, p);
      if (!Keys) store_bias_slope(segment, args.query[r].bias_slope, n, ds);
      store_factor(args.pairs, slope, n, ds * bend);
    }
  }
}

}  // namespace

void attention_backward_tile(const AttentionBackwardArgs& args);
void attention_backward_tile(const AttentionBackwardArgs& args) {
  for (std::int64_t i = 0; i < args.count; ++i) {
    const GradientSegment& segment = args.segments[i];
    multiply_as<false>(args.pairs, args.rows, segment.width, args.depth, args.x, args.depth,
                       segment.x_columns, segment.width, args.scores, kSegmentKeys);
    multiply_as<false>(args.pairs, args.rows, segment.width, args.value_depth, args.y,
                       args.value_depth, segment.y_columns, segment.width, args.slopes,
                       kSegmentKeys);
    with_float_type(args.rule.bias_type, [&](auto type) {
      using B = typename decltype(type)::type;
      if constexpr (sizeof(B) < 8) {
        args.keys_stay ? probabilities<B, true>(args, segment)
                       : probabilities<B, false>(args, segment);
      }
    });
    const std::int64_t count = args.pairs ? (segment.count + 1) / 2 : segment.count;
    multiply_as<true>(args.pairs, args.rows, args.depth_width, count, args.slopes, kSegmentKeys,
                      segment.x_rows, args.depth_width, args.x_sums, args.depth_width);
    if (args.keys_stay) {
      multiply_as<true>(args.pairs, args.rows, args.value_width, count, args.scores, kSegmentKeys,
                        segment.y_rows, args.value_width, args.y_sums, args.value_width);
    }
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
