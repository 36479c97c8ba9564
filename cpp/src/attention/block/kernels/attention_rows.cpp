// Few queries against keys and values as they lie in memory, each of which is read once for all
// queries: dot products of a few keys at a time with lanes along the depth, an online softmax over
// chunks of keys, and sums with lanes along the depth of the values. Heads whose keys lie side by
// side are computed together, a few tokens at a time, so that memory is read in its order; rows of
// the next chunk are prefetched between the multiplications, one for each that is read.

#include "attention/block/args.h"
#include "simd/scores.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int W = kLanes<float>;
using F = Vec<float>;

/// Tokens whose values are added up at a time where there are several heads: values are then read
/// in the order of memory, and the sums stay in the level-1 cache.
constexpr int kStep = 16;
/// Keys of the first chunk, which nothing has prefetched.
constexpr int kFirstKeys = 16;

/// The keys of a chunk: where they and their values are, and their numbers. The places behind the
/// last key hold any rows that may be read: kernels compute four keys at a time, and prefetch as
/// many rows as the chunk before has.
struct Chunk {
  const void* k[kChunkKeys + 3];
  const void* v[kChunkKeys + 3];
  std::int32_t key[kChunkKeys];
  int count;
  std::int32_t low, high;  // the smallest and the largest number
};

template <class S>
GOSSAMER_INLINE const S* at_head(const void* row, std::int64_t offset) {
  return static_cast<const S*>(row) + offset;
}

/// Prefetches the line of a vector of a row.
template <class S>
GOSSAMER_INLINE void prefetch(const S* row, std::int64_t d) {
  __builtin_prefetch(row + d, 0, 3);
}

/// Scores of M queries with 4 keys, those of a query kChunkKeys after the one before. Prefetches
/// the rows `next`.
template <int M, class S>
GOSSAMER_INLINE void four_keys(const float* q, std::int64_t depth, const S* const* k,
                               const S* const* next, float* scores) {
  F sum[M][4] = {};
  std::int64_t d = 0;
  for (; d + W <= depth; d += W) {
    F key[4];
#pragma GCC unroll 4
    for (int e = 0; e < 4; ++e) {
      key[e] = load_real<W>(k[e] + d);
      prefetch(next[e], d);
    }
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

/// Scores of M queries of each head, from row `row` on, with keys n to n + 3.
template <int M, class S>
__attribute__((noinline)) void dots(const AttentionRowsArgs& args, std::int64_t row,
                                    const Chunk& chunk, const Chunk& next, int n) {
  std::int64_t token = n, head = 0;  // of the row that is prefetched, in the order of memory
  for (std::int64_t h = 0; h < args.heads; ++h) {
    const S *k[4], *later[4];
#pragma GCC unroll 4
    for (int e = 0; e < 4; ++e) {
      k[e] = at_head<S>(chunk.k[n + e], h * args.k_head);
      later[e] = at_head<S>(next.k[token], head * args.k_head);
      if (++head == args.heads) {
        head = 0;
        ++token;
      }
    }
    four_keys<M, S>(args.q + h * args.q_head + row * args.depth, args.depth, k, later,
                    args.scores + (h * args.rows + row) * kChunkKeys + n);
  }
}

/// sums [M, J vectors from d on] += p·v over the keys [first, last) of a chunk.
template <int M, int J, bool Tail, class S>
GOSSAMER_INLINE void add_values(const AttentionRowsArgs& args, const Chunk& chunk,
                                const void* const* later, int first, int last, std::int64_t offset,
                                std::int64_t d, const float* p, float* sums, int left) {
  F sum[M][J];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) sum[m][j] = load<W>(sums + m * args.sums_pitch + j * W);
  }
  for (int n = first; n < last; ++n) {
    const S* v = at_head<S>(chunk.v[n], offset + d);
    const S* ahead = at_head<S>(later[n - first], d);
    F value[J];
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      value[j] = Tail ? load_first<W>(v + j * W, left) : load_real<W>(v + j * W);
      prefetch(ahead, j * W);
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
    for (int j = 0; j < J; ++j) store<W>(sums + m * args.sums_pitch + j * W, sum[m][j]);
  }
}

template <int M, class S>
__attribute__((noinline)) void values(const AttentionRowsArgs& args, std::int64_t row,
                                      const Chunk& chunk, const Chunk& next, int first, int last) {
  constexpr int J = M > 4 ? 2 : 4;
  std::int64_t token = first, head = 0;
  for (std::int64_t h = 0; h < args.heads; ++h) {
    const void* rows[kStep];
    const void* const* later = next.v + first;
    if (args.heads > 1) {
      for (int n = first; n < last; ++n) {
        rows[n - first] = at_head<S>(next.v[token], head * args.v_head);
        if (++head == args.heads) {
          head = 0;
          ++token;
        }
      }
      later = rows;
    }
    const float* p = args.scores + (h * args.rows + row) * kChunkKeys;
    float* sums = args.sums + h * args.sums_head + row * args.sums_pitch;
    const std::int64_t at = h * args.v_head;
    std::int64_t d = 0;
    for (; d + J * W <= args.value_depth; d += J * W) {
      add_values<M, J, false, S>(args, chunk, later, first, last, at, d, p, sums + d, 0);
    }
    for (; d + W <= args.value_depth; d += W) {
      add_values<M, 1, false, S>(args, chunk, later, first, last, at, d, p, sums + d, 0);
    }
    if (d < args.value_depth) {
      add_values<M, 1, true, S>(args, chunk, later, first, last, at, d, p, sums + d,
                                static_cast<int>(args.value_depth - d));
    }
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

void softmax_row(const AttentionRowsArgs& args, std::int64_t h, std::int64_t row, int width,
                 float* s) {
  float* maxima = args.maxima + h * args.sums_head;
  float* totals = args.totals + h * args.sums_head;
  F top = load<W>(s);
  for (int n = W; n < width; n += W) {
    const F v = load<W>(s + n);
    top = v > top ? v : top;
  }
  const float before = maxima[row], here = max_of<W>(top);
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
    maxima[row] = maximum;
    float* sums = args.sums + h * args.sums_head + row * args.sums_pitch;
    for (std::int64_t d = 0; d < args.value_depth; d += W) {
      store<W>(sums + d, load<W>(sums + d) * kept);
    }
  }
  totals[row] = totals[row] * kept + sum_of<W>(total);
}

/// Calls body.operator()<M>(row) for all rows, M at a time.
template <class F>
GOSSAMER_INLINE void for_rows(std::int64_t rows, F&& body) {
  std::int64_t row = 0;
  for (; row + 8 <= rows; row += 8) body.template operator()<8>(row);
  for (; row + 4 <= rows; row += 4) body.template operator()<4>(row);
  for (; row + 2 <= rows; row += 2) body.template operator()<2>(row);
  for (; row < rows; ++row) body.template operator()<1>(row);
}

/// Prefetches the rows of a chunk from number `first` on.
template <class S>
void prefetch_rows(const AttentionRowsArgs& args, const Chunk& chunk, int first) {
  for (int n = first; n < chunk.count; ++n) {
    for (std::int64_t h = 0; h < args.heads; ++h) {
      const S* k = at_head<S>(chunk.k[n], h * args.k_head);
      const S* v = at_head<S>(chunk.v[n], h * args.v_head);
      for (std::int64_t d = 0; d < args.depth; d += W) prefetch(k, d);
      for (std::int64_t d = 0; d < args.value_depth; d += W) prefetch(v, d);
    }
  }
}

template <class S>
void compute(const AttentionRowsArgs& args, const Chunk& chunk, const Chunk& next) {
  // Of the first chunks, each is larger than the one before, which cannot prefetch all its rows.
  prefetch_rows<S>(args, next, chunk.count);
  for (int n = 0; n < chunk.count; n += 4) {
    for_rows(args.rows, [&]<int M>(std::int64_t row) { dots<M, S>(args, row, chunk, next, n); });
  }
  const int width = (chunk.count + W - 1) / W * W;
  for (std::int64_t h = 0; h < args.heads; ++h) {
    for (std::int64_t row = 0; row < args.rows; ++row) {
      float* s = args.scores + (h * args.rows + row) * kChunkKeys;
      with_float_type(args.rule.bias_type, [&](auto type) {
        using B = typename decltype(type)::type;
        if constexpr (sizeof(B) < 8) apply_rule<B>(args, args.query[row], chunk, width, s);
      });
      softmax_row(args, h, row, width, s);
    }
  }
  const int step = args.heads == 1 ? chunk.count : kStep;
  for (int n = 0; n < chunk.count; n += step) {
    const int last = min_int(n + step, chunk.count);
    for_rows(args.rows,
             [&]<int M>(std::int64_t row) { values<M, S>(args, row, chunk, next, n, last); });
  }
}

/// A place in the runs.
struct Cursor {
  std::int64_t run = 0;
  std::int32_t from = 0;
};

/// `most`: the keys of the chunk, if there are as many.
template <class S>
void fill_chunk(const AttentionRowsArgs& args, int most, Cursor& at, Chunk& chunk) {
  chunk.count = 0;
  chunk.low = 0x7fffffff;
  chunk.high = -1;
  while (at.run < args.count && chunk.count < most) {
    const KeyRun& keys = args.runs[at.run];
    const int first = chunk.count;
    for (; at.from < keys.count && chunk.count < most; ++at.from, ++chunk.count) {
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
}

/// Fills the places behind the last key with those of another chunk.
void fill_rest(Chunk& chunk, const Chunk& other) {
  for (int n = chunk.count; n < other.count; ++n) {
    chunk.k[n] = other.k[n];
    chunk.v[n] = other.v[n];
  }
  for (int n = chunk.count > other.count ? chunk.count : other.count, end = n + 3; n < end; ++n) {
    chunk.k[n] = other.k[0];
    chunk.v[n] = other.v[0];
  }
}

template <class S>
void chunks(const AttentionRowsArgs& args) {
  Chunk both[2];
  Cursor at;
  int most = min_int(kFirstKeys, args.chunk);
  fill_chunk<S>(args, most, at, both[0]);
  fill_rest(both[0], both[0]);
  for (int i = 0; both[i].count > 0; i = 1 - i) {
    most = min_int(2 * most, args.chunk);
    fill_chunk<S>(args, most, at, both[1 - i]);
    fill_rest(both[1 - i], both[i]);
    compute<S>(args, both[i], both[1 - i]);
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
