// Attention over the entries of a CSR pattern: for each row and head, 128 entries at a time, the
// scores, their largest and their powers of e (softmax as the scores come, rescaled where a larger
// one is found), then the weighted sum of the values. No score outlives its 128.

#include "attention/csr/args.h"
#include "simd/gathered_rows.h"
#include "simd/simd.h"
#include "simd/softmax.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr std::int64_t kChunk = 128, kAhead = RowList<float>::kAhead;

/// Indices or pointers, int32 or int64.
struct Integers {
  const void* data;
  bool wide;

  GOSSAMER_INLINE std::int64_t operator[](std::int64_t i) const {
    return wide ? static_cast<const std::int64_t*>(data)[i]
                : static_cast<const std::int32_t*>(data)[i];
  }
};

/// The indices of a chunk, and of the entries behind it that are asked for, as int32: where they
/// are int64, a copy. So kernels need no second form for them.
class ChunkIndices {
 public:
  GOSSAMER_INLINE const std::int32_t* read(const Integers& indices, std::int64_t at,
                                           std::int64_t all) {
    if (!indices.wide) return static_cast<const std::int32_t*>(indices.data) + at;
    const std::int64_t n = min_i64(kChunk + kAhead, all - at);
    for (std::int64_t e = 0; e < n; ++e) copy_[e] = static_cast<std::int32_t>(indices[at + e]);
    return copy_;
  }

 private:
  std::int32_t copy_[kChunk + kAhead];
};

/// Entries from `at` on of which the one kAhead behind is asked for, of `all`.
GOSSAMER_INLINE std::int64_t entries_ahead(bool wanted, std::int64_t at, std::int64_t all) {
  return wanted ? all - at - kAhead : 0;
}

template <class S>
GOSSAMER_INLINE const S* row_of(const HeadRows& rows, std::int64_t r, std::int64_t head) {
  return static_cast<const S*>(rows.data) + r * rows.row + head * rows.head;
}

/// The caller's row where it is Real, else a copy.
GOSSAMER_INLINE const float* as_real(const float* row, std::int64_t, float*) { return row; }
GOSSAMER_INLINE const double* as_real(const double* row, std::int64_t, double*) { return row; }
template <class S>
GOSSAMER_INLINE const float* as_real(const S* row, std::int64_t n, float* copy) {
  constexpr int W = kLanes<float>;
  std::int64_t d = 0;
  for (; d + W <= n; d += W) store<W>(copy + d, load_real<W>(row + d));
  for (; d < n; ++d) copy[d] = to_float(row[d]);
  return copy;
}

/// Stores sums·factor.
template <class T, class S>
GOSSAMER_INLINE void store_scaled(const T* sums, T factor, std::int64_t n, S* out) {
  constexpr int W = kLanes<T>;
  std::int64_t d = 0;
  for (; d + W <= n; d += W) store_real<W>(out + d, load<W>(sums + d) * factor);
  if (const int left = static_cast<int>(n - d); left > 0) {
    store_first<W>(out + d, load_first<W>(sums + d, left) * factor, left);
  }
}

/// Turns the sums of the scores into scores, to the end of the last vector; `bias` [n] may be null.
template <class T, class S>
GOSSAMER_INLINE void finish_scores(const EdgeScore& score, const S* bias, std::int64_t n, T* s) {
  constexpr int W = kLanes<T>;
  const T scale = static_cast<T>(score.scale);
  for (std::int64_t e = 0; e < n; e += W) {
    Vec<T> v = load<W>(s + e) * scale;
    if (bias != nullptr) {
      v += e + W <= n ? load_real<W>(bias + e) : load_first<W>(bias + e, static_cast<int>(n - e));
    }
    store<W>(s + e, v);
  }
}

template <class T, class S>
GOSSAMER_INLINE void row_and_head(const CsrAttentionArgs& args, const Integers& indices,
                                  std::int64_t begin, std::int64_t end, std::int64_t all,
                                  std::int64_t i, std::int64_t h) {
  constexpr int W = kLanes<T>;
  T* copy = static_cast<T*>(args.scratch);
  T* sums = copy + args.depth;
  const S* k = row_of<S>(args.k, 0, h / args.group);
  const S* v = row_of<S>(args.v, 0, h / args.group);
  const T* q = as_real(row_of<S>(args.q, i, h), args.depth, copy);
  const T slope = static_cast<T>(args.score.slope);
  // Each head of keys and values asks for its own part of later rows.
  const bool asks = args.prefetch && h % args.group == 0;
  T most = kMinusInfinity<T>, total = 0;
  bool any = false;
  ChunkIndices narrow;
  for (std::int64_t at = begin; at < end; at += kChunk) {
    const std::int64_t n = min_i64(kChunk, end - at);
    const std::int64_t ahead = entries_ahead(asks, at, all);
    const std::int32_t* chunk = narrow.read(indices, at, all);
    T s[kChunk + W];  // -∞ behind the last, to the end of a vector
    const RowList<S> list_k{chunk, n, k, args.k.row, ahead};
    if (args.score.gat) {
      for (std::int64_t e = 0; e < n; ++e) {
        list_k.ask(e, 0, 1);
        const T x = q[0] + to_float(list_k.row(e)[0]);
        s[e] = x > 0 ? x : x * slope;
      }
    } else {
      row_dots(list_k, q, args.depth, s);
    }
    const S* bias = static_cast<const S*>(args.score.bias);
    if (bias != nullptr) bias += h * args.score.bias_head + at;
    store<W>(s + n, Vec<T>{});
    finish_scores<T>(args.score, bias, n, s);
    store<W>(s + n, broadcast<W>(kMinusInfinity<T>));

    Vec<T> lanes = load<W>(s);
    for (std::int64_t e = W; e < n; e += W) lanes = larger_lanes<T, W>(lanes, load<W>(s + e));
    const T larger = larger_or_nan<T>(most, max_lanes<T, W>(lanes));
    if (larger == kMinusInfinity<T>) continue;  // none of them counts
    const T factor = any ? exp_weight(most - larger) : T{0};
    Vec<T> powers = {};
    for (std::int64_t e = 0; e < n; e += W) {
      const Vec<T> power = exp_weights<W>(load<W>(s + e) - larger);
      store<W>(s + e, power);
      powers += power;
    }
    total = total * factor + sum_lanes<T, W>(powers);
    most = larger;
    add_rows(RowList<S>{chunk, n, v, args.v.row, ahead}, s, factor, args.depth_v, sums);
    any = true;
  }
  S* o = static_cast<S*>(args.o) + i * args.o_row + h * args.o_head;
  T* lse = static_cast<T*>(args.lse) + h * args.lse_head + i;
  if (any) {
    store_scaled(sums, T{1} / total, args.depth_v, o);
    *lse = most + log_real(total);
  } else {
    for (std::int64_t d = 0; d < args.depth_v; ++d) assign(o[d], 0);
    *lse = kMinusInfinity<T>;
  }
}

template <class S>
void rows(const CsrAttentionArgs& args) {
  using T = decltype(to_float(S{}));
  const Integers indptr{args.indptr, args.wide};
  const Integers indices{args.indices, args.wide};
  const std::int64_t all = indptr[args.row1];
  for (std::int64_t r = args.row0; r < args.row1; ++r) {
    const std::int64_t begin = indptr[r], end = indptr[r + 1];
    for (std::int64_t h = 0; h < args.heads; ++h) {
      row_and_head<T, S>(args, indices, begin, end, all, r - args.row_base, h);
    }
  }
}

/// The weights of a part of a list from its scores, and their gradients, in place: s becomes
/// e^(s - lse), g becomes s·(g - delta), with lse and delta of the entry's query.
template <class T>
GOSSAMER_INLINE void weigh(const CsrAttentionBackwardArgs& args, const std::int32_t* indices,
                           std::int64_t n, std::int64_t i, std::int64_t h, T* s, T* g) {
  constexpr int W = kLanes<T>;
  const T* lse = static_cast<const T*>(args.lse) + h * args.lse_head;
  const T* delta = static_cast<const T*>(args.delta) + h * args.lse_head;
  T part_lse[W], part_delta[W];
  Vec<T> lses = {}, deltas = {};
  if (!args.columns) {
    lses = broadcast<W>(lse[i]);
    deltas = broadcast<W>(delta[i]);
  }
  for (std::int64_t e = 0; e < n; e += W) {
    const int left = static_cast<int>(min_i64(W, n - e));
    if (args.columns) {
      for (int l = 0; l < left; ++l) {
        part_lse[l] = lse[indices[e + l]];
        part_delta[l] = delta[indices[e + l]];
      }
      for (int l = left; l < W; ++l) part_lse[l] = part_delta[l] = 0;
      lses = load<W>(part_lse);
      deltas = load<W>(part_delta);
    }
    // s and g have room for a whole vector; what lies behind their ends is not used.
    const Vec<T> power = exp_weights<W>(load<W>(s + e) - lses);
    const Vec<T> weights = lses == kMinusInfinity<T> ? Vec<T>{} : power;
    store<W>(s + e, weights);
    store<W>(g + e, weights * (load<W>(g + e) - deltas));
  }
}

template <class T, class S>
GOSSAMER_INLINE void list_and_head(const CsrAttentionBackwardArgs& args, const Integers& indices,
                                   const Integers& permutation, std::int64_t begin,
                                   std::int64_t end, std::int64_t all, std::int64_t i,
                                   std::int64_t h, bool first) {
  constexpr int W = kLanes<T>;
  T* copy = static_cast<T*>(args.scratch);
  T* sum_x = copy + args.depth + args.depth_v;
  T* sum_y = sum_x + args.depth;
  const std::int64_t kv = h / args.group;
  const std::int64_t own = args.columns ? kv : h, other = args.columns ? h : kv;
  const bool asks = args.prefetch && (args.columns || h % args.group == 0);
  const T* x = as_real(row_of<S>(args.x, i, own), args.depth, copy);
  const T* y = as_real(row_of<S>(args.y, i, own), args.depth_v, copy + args.depth);
  const S* other_x = row_of<S>(args.other_x, 0, other);
  const S* other_y = row_of<S>(args.other_y, 0, other);
  const S* bias = static_cast<const S*>(args.score.bias);
  if (bias != nullptr) bias += h * args.score.bias_head;
  const T slope = static_cast<T>(args.score.slope);
  if (first) {
    for (std::int64_t d = 0; d < args.depth; ++d) sum_x[d] = 0;
    if (args.columns) {
      for (std::int64_t d = 0; d < args.depth_v; ++d) sum_y[d] = 0;
    }
  }
  ChunkIndices narrow;
  for (std::int64_t at = begin; at < end; at += kChunk) {
    const std::int64_t n = min_i64(kChunk, end - at);
    const std::int32_t* chunk = narrow.read(indices, at, all);
    T s[kChunk + W], g[kChunk + W], slopes[kChunk];
    S biases[kChunk];
    const std::int64_t ahead = entries_ahead(asks, at, all);
    const RowList<S> asked_x{chunk, n, other_x, args.other_x.row, ahead};
    const RowList<S> asked_y{chunk, n, other_y, args.other_y.row, ahead};
    const RowList<S> list_x{chunk, n, other_x, args.other_x.row};
    const RowList<S> list_y{chunk, n, other_y, args.other_y.row};
    if (args.score.gat) {
      for (std::int64_t e = 0; e < n; ++e) {
        asked_x.ask(e, 0, 1);
        const T sum = x[0] + to_float(list_x.row(e)[0]);
        slopes[e] = sum > 0 ? T{1} : slope;
        s[e] = sum * slopes[e];
      }
    } else {
      row_dots(asked_x, x, args.depth, s);
    }
    const S* chunk_bias = bias == nullptr ? nullptr : bias + at;
    if (bias != nullptr && permutation.data != nullptr) {
      for (std::int64_t e = 0; e < n; ++e) biases[e] = bias[permutation[at + e]];
      chunk_bias = biases;
    }
    row_dots(asked_y, y, args.depth_v, g);
    store<W>(s + n, Vec<T>{});
    store<W>(g + n, Vec<T>{});
    finish_scores<T>(args.score, chunk_bias, n, s);
    weigh<T>(args, chunk, n, i, h, s, g);
    if (args.g != nullptr) {
      T* out = static_cast<T*>(args.g) + h * args.g_head + at;
      for (std::int64_t e = 0; e < n; ++e) out[e] = g[e];
    }
    if (args.score.gat) {
      T sum = sum_x[0];
      for (std::int64_t e = 0; e < n; ++e) sum += g[e] * slopes[e];
      sum_x[0] = sum;
    } else {
      add_rows(list_x, g, T{1}, args.depth, sum_x);
    }
    if (args.columns) add_rows(list_y, s, T{1}, args.depth_v, sum_y);
  }
}

/// delta_i = ⟨do_i, o_i⟩ - dlse_i.
template <class T, class S>
GOSSAMER_INLINE void set_delta(const CsrAttentionBackwardArgs& args, std::int64_t i,
                               std::int64_t h) {
  constexpr int W = kLanes<T>;
  const S* grad = row_of<S>(args.y, i, h);
  const S* o = row_of<S>(args.o, i, h);
  Vec<T> sums = {};
  std::int64_t d = 0;
  for (; d + W <= args.depth_v; d += W) sums += load_real<W>(grad + d) * load_real<W>(o + d);
  if (const int left = static_cast<int>(args.depth_v - d); left > 0) {
    sums += load_first<W>(grad + d, left) * load_first<W>(o + d, left);
  }
  T delta = sum_lanes<T, W>(sums);
  if (args.dlse != nullptr) delta -= static_cast<const T*>(args.dlse)[h * args.lse_head + i];
  static_cast<T*>(args.delta)[h * args.lse_head + i] = delta;
}

template <class S>
void lists(const CsrAttentionBackwardArgs& args) {
  using T = decltype(to_float(S{}));
  const Integers indptr{args.indptr, args.wide};
  const Integers indices{args.indices, args.wide};
  const Integers permutation{args.permutation, args.wide};
  const T* sum_x = static_cast<const T*>(args.scratch) + args.depth + args.depth_v;
  const T* sum_y = sum_x + args.depth;
  const T scale = static_cast<T>(args.score.scale);
  const std::int64_t all = indptr[args.row1];
  for (std::int64_t r = args.row0; r < args.row1; ++r) {
    const std::int64_t begin = indptr[r], end = indptr[r + 1], i = r - args.row_base;
    for (std::int64_t h = 0; h < args.heads; ++h) {
      // By columns, the heads that share a key are added up.
      const std::int64_t member = args.columns ? h % args.group : 0;
      const std::int64_t last = args.columns ? args.group - 1 : 0;
      if (!args.columns) set_delta<T, S>(args, i, h);
      list_and_head<T, S>(args, indices, permutation, begin, end, all, i, h, member == 0);
      if (member != last) continue;
      const std::int64_t own = args.columns ? h / args.group : h;
      store_scaled(sum_x, scale, args.depth,
                   static_cast<S*>(args.dx) + i * args.dx_row + own * args.dx_head);
      if (!args.columns) continue;
      store_scaled(sum_y, T{1}, args.depth_v,
                   static_cast<S*>(args.dy) + i * args.dy_row + own * args.dy_head);
    }
  }
}

}  // namespace

void csr_attention(const CsrAttentionArgs& args);
void csr_attention(const CsrAttentionArgs& args) {
  with_float_type(args.type, [&](auto type) { rows<typename decltype(type)::type>(args); });
}

void csr_attention_backward(const CsrAttentionBackwardArgs& args);
void csr_attention_backward(const CsrAttentionBackwardArgs& args) {
  with_float_type(args.type, [&](auto type) { lists<typename decltype(type)::type>(args); });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
