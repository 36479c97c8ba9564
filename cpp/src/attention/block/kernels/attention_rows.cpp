// Few queries against keys and values as they lie in memory, each of which is read once for all
// queries: dot products of a few keys at a time with lanes along the depth, an online softmax over
// chunks of keys, and sums with lanes along the depth of the values.

#include "attention/block/args.h"
#include "simd/scores.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int W = kLanes<float>;
using F = Vec<float>;

/// Keys of a run that belong to a chunk: `count` from the run's key `from` on.
struct Part {
  const KeyRun* run;
  std::int32_t from, count;
};
constexpr int kParts = kChunkKeys;

template <class S>
GOSSAMER_INLINE const S* row_of(const void* base, std::int64_t stride, std::int64_t row) {
  return static_cast<const S*>(base) + row * stride;
}

/// scores of M queries with 4 keys: rows `pitch` apart.
template <int M, class S>
GOSSAMER_INLINE void four_keys(const float* q, std::int64_t depth, const S* const (&k)[4],
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
                                    const Part* parts, int count, float* scores) {
  const S* k[4];
  int at = 0, waiting = 0;
  for (int i = 0; i < count; ++i) {
    for (std::int32_t n = 0; n < parts[i].count; ++n) {
      k[waiting++] = row_of<S>(parts[i].run->k, args.k_stride, parts[i].from + n);
      if (waiting < 4) continue;
      four_keys<M, S>(q, args.depth, k, scores + at);
      at += 4;
      waiting = 0;
    }
  }
  if (waiting == 0) return;
  // The rows of scores have room for a multiple of four.
  for (int e = waiting; e < 4; ++e) k[e] = k[waiting - 1];
  four_keys<M, S>(q, args.depth, k, scores + at);
}

/// sums [M, J vectors from d on] += p·v over the keys of a chunk.
template <int M, int J, bool Tail, class S>
GOSSAMER_INLINE void add_values(const AttentionRowsArgs& args, const Part* parts, int count,
                                const float* p, float* sums, std::int64_t d, int left) {
  F sum[M][J];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) sum[m][j] = load<W>(sums + m * args.sums_pitch + d + j * W);
  }
  int at = 0;
  for (int i = 0; i < count; ++i) {
    const S* v = row_of<S>(parts[i].run->v, args.v_stride, parts[i].from) + d;
    for (std::int32_t n = 0; n < parts[i].count; ++n, v += args.v_stride, ++at) {
      F value[J];
#pragma GCC unroll 4
      for (int j = 0; j < J; ++j) {
        value[j] = Tail ? load_first<W>(v + j * W, left) : load_real<W>(v + j * W);
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const F share = broadcast<W>(p[m * kChunkKeys + at]);
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) sum[m][j] += share * value[j];
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) store<W>(sums + m * args.sums_pitch + d + j * W, sum[m][j]);
  }
}

template <int M, class S>
__attribute__((noinline)) void values(const AttentionRowsArgs& args, const Part* parts, int count,
                                      const float* p, float* sums) {
  constexpr int J = M > 4 ? 2 : 4;
  std::int64_t d = 0;
  for (; d + J * W <= args.value_depth; d += J * W) {
    add_values<M, J, false, S>(args, parts, count, p, sums, d, 0);
  }
  for (; d + W <= args.value_depth; d += W) {
    add_values<M, 1, false, S>(args, parts, count, p, sums, d, 0);
  }
  if (d < args.value_depth) {
    add_values<M, 1, true, S>(args, parts, count, p, sums, d,
                              static_cast<int>(args.value_depth - d));
  }
}

/// scale, softcap, bias and what a query does not see, on scores of a chunk.
template <class B>
void apply_rule(const AttentionRowsArgs& args, const QueryRow& query, const Part* parts, int count,
                int width, float* s) {
  for (int n = 0; n < width; n += W) {
    F v = load<W>(s + n) * args.rule.scale;
    if (args.rule.softcap != 0) {
      v = tanh_vec<W>(v * (1.0f / args.rule.softcap)) * args.rule.softcap;
    }
    store<W>(s + n, v);
  }
  int at = 0;
  for (int i = 0; i < count; ++i) {
    const std::int32_t key = parts[i].run->key + parts[i].from;
    if (query.bias != nullptr) {
      const B* bias = static_cast<const B*>(query.bias) + key;
      for (std::int32_t n = 0; n < parts[i].count; ++n) s[at + n] += to_float(bias[n]);
    }
    if (key < query.first || key + parts[i].count > query.last) {
      for (std::int32_t n = 0; n < parts[i].count; ++n) {
        if (key + n < query.first || key + n >= query.last) s[at + n] = kMinusInfinity;
      }
    }
    at += parts[i].count;
  }
  for (; at < width; ++at) s[at] = kMinusInfinity;
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
GOSSAMER_INLINE void some_rows(const AttentionRowsArgs& args, std::int64_t row, const Part* parts,
                               int count, int width) {
  float* scores = args.scores + row * kChunkKeys;
  dots<M, S>(args, args.q + row * args.depth, parts, count, scores);
  for (int m = 0; m < M; ++m) {
    float* s = scores + m * kChunkKeys;
    with_float_type(args.rule.bias_type, [&](auto type) {
      using B = typename decltype(type)::type;
      if constexpr (sizeof(B) < 8) {
        apply_rule<B>(args, args.query[row + m], parts, count, width, s);
      }
    });
    softmax_row(args, row + m, width, s);
  }
  values<M, S>(args, parts, count, scores, args.sums + row * args.sums_pitch);
}

template <class S>
void chunks(const AttentionRowsArgs& args) {
  Part parts[kParts];
  std::int64_t run = 0;
  std::int32_t from = 0;
  while (run < args.count) {
    int count = 0, keys = 0;
    while (run < args.count && keys < kChunkKeys) {
      const std::int32_t left = args.runs[run].count - from;
      const std::int32_t n = left < kChunkKeys - keys ? left : kChunkKeys - keys;
      if (n > 0) parts[count++] = {args.runs + run, from, n};
      keys += n;
      from += n;
      if (from == args.runs[run].count) {
        ++run;
        from = 0;
      }
    }
    if (keys == 0) continue;
    const int width = (keys + W - 1) / W * W;
    std::int64_t row = 0;
    for (; row + 8 <= args.rows; row += 8) some_rows<8, S>(args, row, parts, count, width);
    for (; row + 4 <= args.rows; row += 4) some_rows<4, S>(args, row, parts, count, width);
    for (; row + 2 <= args.rows; row += 2) some_rows<2, S>(args, row, parts, count, width);
    for (; row < args.rows; ++row) some_rows<1, S>(args, row, parts, count, width);
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
