// Few queries against keys and values as they lie in memory, each of which is read once for all
// queries: dot products of a few keys at a time with lanes along the depth, an online softmax over
// chunks of keys, and sums with lanes along the depth of the values.

#include "attention/block/args.h"
#include "simd/scores.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int W = kLanes<float>;
using F = Vec<float>;

/// The keys of a chunk: where they and their values are, and their numbers. Behind the last, three
/// more repeat it.
struct Chunk {
  const void* k[kChunkKeys + 3];
  const void* v[kChunkKeys];
  std::int32_t key[kChunkKeys];
  int count;
  std::int32_t low, high;  // the smallest and the largest number
};

/// Asks for rows of a later chunk, some lines with every four keys of this one. Short rows that lie
/// a power of two apart push each other out of the level-1 cache, and are asked for in the next
/// one: lists of tokens gained 10 to 20 % from that on a Zen 5, other rows lost 10 %.
class Ahead {
 public:
  Ahead(const AheadRows& rows, int keys) : rows_(rows) {
    const std::int64_t lines = rows.count * (lines_of(rows.k_bytes) + lines_of(rows.v_bytes));
    const int steps = 2 * ((keys + 3) / 4);  // of the scores, and of the values
    per_step_ = (lines + steps - 1) / steps;
    const auto* first = static_cast<const char*>(rows.count > 1 ? rows.k[0] : nullptr);
    near_ = lines_of(rows.k_bytes) > kShortRow ||
            (first != nullptr && static_cast<const char*>(rows.k[1]) - first == rows.k_bytes);
  }

  GOSSAMER_INLINE void step() {
    for (std::int64_t n = per_step_; n > 0 && row_ < rows_.count;) {
      const auto* from = static_cast<const char*>(of_v_ ? rows_.v[row_] : rows_.k[row_]);
      const std::int64_t all = lines_of(of_v_ ? rows_.v_bytes : rows_.k_bytes);
      const std::int64_t last = min_i64(line_ + n, all);
      n -= last - line_;
      if (near_) {
        for (; line_ < last; ++line_) __builtin_prefetch(from + line_ * 64, 0, 3);
      } else {
        for (; line_ < last; ++line_) __builtin_prefetch(from + line_ * 64, 0, 2);
      }
      if (line_ < all) return;
      line_ = 0;
      if (++row_ == rows_.count && !of_v_) {
        row_ = 0;
        of_v_ = true;
      }
    }
  }

 private:
  static constexpr std::int64_t kShortRow = 16;  // of 64 bytes
  static std::int64_t lines_of(std::int64_t bytes) { return (bytes + 63) / 64; }

  AheadRows rows_;
  std::int64_t per_step_, row_ = 0, line_ = 0;
  bool of_v_ = false, near_;
};

/// scores of M queries with 4 keys: rows `pitch` apart.
template <int M, class S>
GOSSAMER_INLINE void four_keys(const float* q, std::int64_t depth, const S* const* k,
                               float* scores) {
  F sum[M][4] = {};
  std::int64_t d = 0;
  for (; d + W <= depth; d += W) {
    F key[4];
#pragma GCC unroll 4
    for (int e = 0; e < 4; ++e) key[e] = load_real<W>(k[e] + d);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const F x = load<W>(q + m * depth + d);
#pragma GCC unroll 4
      for (int e = 0; e < 4; ++e) sum[m][e] += x * key[e];
    }
  }
  if (d < depth) {
    const int left = static_cast<int>(depth - d);
    F key[4];
#pragma GCC unroll 4
    for (int e = 0; e < 4; ++e) key[e] = load_first<W>(k[e] + d, left);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const F x = load_first<W>(q + m * depth + d, left);
#pragma GCC unroll 4
      for (int e = 0; e < 4; ++e) sum[m][e] += x * key[e];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    store<4>(scores + m * kChunkKeys, sum_lanes4<float, W>(sum[m]));
  }
}

template <int M, class S>
__attribute__((noinline)) void dots(const AttentionRowsArgs& args, const float* q,
                                    const Chunk& chunk, Ahead* ahead, float* scores) {
  for (int n = 0; n < chunk.count; n += 4) {
    if (ahead != nullptr) ahead->step();
    const S* k[4];
#pragma GCC unroll 4
    for (int e = 0; e < 4; ++e) k[e] = static_cast<const S*>(chunk.k[n + e]);
    four_keys<M, S>(q, args.depth, k, scores + n);
  }
}

/// sums [M, J vectors from d on] += p·v over the keys of a chunk.
template <int M, int J, bool Tail, class S>
GOSSAMER_INLINE void add_values(const AttentionRowsArgs& args, const Chunk& chunk, Ahead* ahead,
                                const float* p, float* sums, std::int64_t d, int left) {
  F sum[M][J];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) sum[m][j] = load<W>(sums + m * args.sums_pitch + d + j * W);
  }
  for (int n = 0; n < chunk.count; ++n) {
    if (ahead != nullptr && n % 4 == 0) ahead->step();
    const S* v = static_cast<const S*>(chunk.v[n]) + d;
    F value[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      value[j] = Tail ? load_first<W>(v + j * W, left) : load_real<W>(v + j * W);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const F share = broadcast<W>(p[m * kChunkKeys + n]);
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) sum[m][j] += share * value[j];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) store<W>(sums + m * args.sums_pitch + d + j * W, sum[m][j]);
  }
}

template <int M, class S>
__attribute__((noinline)) void values(const AttentionRowsArgs& args, const Chunk& chunk,
                                      Ahead* ahead, const float* p, float* sums) {
  constexpr int J = M > 4 ? 2 : 4;
  std::int64_t d = 0;
  for (; d + J * W <= args.value_depth; d += J * W) {
    add_values<M, J, false, S>(args, chunk, d == 0 ? ahead : nullptr, p, sums, d, 0);
  }
  for (; d + W <= args.value_depth; d += W) {
    add_values<M, 1, false, S>(args, chunk, d == 0 ? ahead : nullptr, p, sums, d, 0);
  }
  if (d < args.value_depth) {
    add_values<M, 1, true, S>(args, chunk, d == 0 ? ahead : nullptr, p, sums, d,
                              static_cast<int>(args.value_depth - d));
  }
}

/// scale, softcap, bias and what a query does not see, on scores of a chunk.
template <class B>
void apply_rule(const AttentionRowsArgs& args, const QueryRow& query, const Chunk& chunk, int width,
                float* s) {
  for (int n = 0; n < width; n += W) {
    F v = load<W>(s + n) * args.rule.scale;
    if (args.rule.softcap != 0) {
      v = tanh_vec<W>(v * (1.0f / args.rule.softcap)) * args.rule.softcap;
    }
    store<W>(s + n, v);
  }
  if (query.bias != nullptr) {
    const B* bias = static_cast<const B*>(query.bias);
    for (int n = 0; n < chunk.count; ++n) s[n] += to_float(bias[chunk.key[n]]);
  }
  if (chunk.low < query.first || chunk.high >= query.last) {
    for (int n = 0; n < chunk.count; ++n) {
      if (chunk.key[n] < query.first || chunk.key[n] >= query.last) s[n] = kMinusInfinity;
    }
  }
  for (int n = chunk.count; n < width; ++n) s[n] = kMinusInfinity;
}

void softmax_row(const AttentionRowsArgs& args, std::int64_t row, int width, float* s) {
  F top = load<W>(s);
  for (int n = W; n < width; n += W) {
    const F v = load<W>(s + n);
    top = v > top ? v : top;
  }
  const float before = args.maxima[row], here = max_of<W>(top);
  const float maximum = here > before ? here : before;
  const float shift = maximum == kMinusInfinity ? 0.0f : maximum;
  F total = {};
  for (int n = 0; n < width; n += W) {
    const F p = exp_or_zero<W>(load<W>(s + n) - shift);
    store<W>(s + n, p);
    total += p;
  }
  float kept = 1;
  if (maximum != before) {
    kept = exp_or_zero<W>(broadcast<W>(before - shift))[0];
    args.maxima[row] = maximum;
    float* sums = args.sums + row * args.sums_pitch;
    for (std::int64_t d = 0; d < args.value_depth; d += W) {
      store<W>(sums + d, load<W>(sums + d) * kept);
    }
  }
  args.totals[row] = args.totals[row] * kept + sum_of<W>(total);
}

template <int M, class S>
GOSSAMER_INLINE void some_rows(const AttentionRowsArgs& args, std::int64_t row, const Chunk& chunk,
                               Ahead& ahead) {
  const int width = (chunk.count + W - 1) / W * W;
  float* scores = args.scores + row * kChunkKeys;
  Ahead* asked = row == 0 ? &ahead : nullptr;
  dots<M, S>(args, args.q + row * args.depth, chunk, asked, scores);
  for (int m = 0; m < M; ++m) {
    float* s = scores + m * kChunkKeys;
    with_float_type(args.rule.bias_type, [&](auto type) {
      using B = typename decltype(type)::type;
      if constexpr (sizeof(B) < 8) apply_rule<B>(args, args.query[row + m], chunk, width, s);
    });
    softmax_row(args, row + m, width, s);
  }
  values<M, S>(args, chunk, asked, scores, args.sums + row * args.sums_pitch);
}

/// A place in the runs.
struct Cursor {
  std::int64_t run = 0;
  std::int32_t from = 0;
};

template <class S>
void fill_chunk(const AttentionRowsArgs& args, Cursor& at, Chunk& chunk) {
  chunk.count = 0;
  chunk.low = 0x7fffffff;
  chunk.high = -1;
  while (at.run < args.count && chunk.count < kChunkKeys) {
    const KeyRun& keys = args.runs[at.run];
    const int first = chunk.count;
    for (; at.from < keys.count && chunk.count < kChunkKeys; ++at.from, ++chunk.count) {
      chunk.k[chunk.count] = static_cast<const S*>(keys.k) + at.from * args.k_stride;
      chunk.v[chunk.count] = static_cast<const S*>(keys.v) + at.from * args.v_stride;
      chunk.key[chunk.count] = keys.key + at.from;
    }
    if (chunk.count > first) {
      chunk.low = min_int(chunk.low, chunk.key[first]);
      const std::int32_t last = chunk.key[chunk.count - 1];
      chunk.high = last > chunk.high ? last : chunk.high;
    }
    if (at.from < keys.count) break;
    ++at.run;
    at.from = 0;
  }
  for (int e = 0; e < 3 && chunk.count > 0; ++e) {
    chunk.k[chunk.count + e] = chunk.k[chunk.count - 1];
  }
}

template <class S>
void chunks(const AttentionRowsArgs& args) {
  Chunk both[2];
  Cursor at;
  const std::int64_t size = static_cast<std::int64_t>(sizeof(S));
  fill_chunk<S>(args, at, both[0]);
  for (int i = 0; both[i].count > 0; i = 1 - i) {
    const Chunk& chunk = both[i];
    Chunk& next = both[1 - i];
    fill_chunk<S>(args, at, next);
    AheadRows rows = args.ahead;
    if (rows.count == 0) {
      rows = {.k = next.k,
              .v = next.v,
              .count = next.count,
              .k_bytes = args.depth * size,
              .v_bytes = args.value_depth * size};
    }
    Ahead ahead(rows, chunk.count);
    std::int64_t row = 0;
    for (; row + 8 <= args.rows; row += 8) some_rows<8, S>(args, row, chunk, ahead);
    for (; row + 4 <= args.rows; row += 4) some_rows<4, S>(args, row, chunk, ahead);
    for (; row + 2 <= args.rows; row += 2) some_rows<2, S>(args, row, chunk, ahead);
    for (; row < args.rows; ++row) some_rows<1, S>(args, row, chunk, ahead);
  }
}

}  // namespace

void attention_rows(const AttentionRowsArgs& args);
void attention_rows(const AttentionRowsArgs& args) {
  with_float_type(args.type, [&](auto type) {
    using S = typename decltype(type)::type;
    if constexpr (sizeof(S) < 8) chunks<S>(args);
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
