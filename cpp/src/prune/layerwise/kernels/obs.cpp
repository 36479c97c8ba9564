// Optimal Brain Surgeon with the Cholesky factor u of the inverse Hessian. Within a block of
// columns: row by row, the error of each dropped weight is spread over the rest of the row. To the
// right of the block: c -= err · u, a matrix product with tiles of c in registers and u in packed
// panels.

#include "prune/layerwise/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Keeps the n of m columns with the largest (w/u)².
template <class T>
void choose(const T* w, const T* u, std::int64_t ldu, int n, int m, std::uint8_t* mask) {
  for (int i = 0; i < m; ++i) mask[i] = 0;
  for (int kept = 0; kept < n; ++kept) {
    int best = -1;
    T largest = 0;
    for (int i = 0; i < m; ++i) {
      if (mask[i] != 0) continue;
      const T ratio = w[i] / u[i * ldu + i];
      const T score = ratio * ratio;
      if (best < 0 || score > largest || (largest != largest && score == score)) {
        best = i;
        largest = score;
      }
    }
    mask[best] = 1;
  }
}

template <class T>
void block(const ObsBlockArgs& args) {
  constexpr int W = kLanes<T>;
  const T* u = static_cast<const T*>(args.u);
  for (std::int64_t r = 0; r < args.rows; ++r) {
    T* w = static_cast<T*>(args.w) + r * args.ldw;
    T* err = static_cast<T*>(args.err) + r * args.lderr;
    std::uint8_t* mask = args.mask + r * args.ldmask;
    for (std::int64_t i = 0; i < args.cols; ++i) {
      const T* row = u + i * args.ldu;
      if (args.m > 0 && i % args.m == 0) {
        choose(w + i, row + i, args.ldu, args.n, args.m, mask + i);
      }
      if (mask[i] != 0) {
        err[i] = 0;
        continue;
      }
      const T e = w[i] / row[i];
      err[i] = e;
      w[i] = 0;
      std::int64_t j = i + 1;
      const Vec<T> wide = broadcast<W>(e);
      for (; j + W <= args.cols; j += W) store<W>(w + j, load<W>(w + j) - wide * load<W>(row + j));
      for (; j < args.cols; ++j) w[j] -= e * row[j];
    }
  }
}

template <class T>
void score(const ObsScoreArgs& args) {
  const T* u = static_cast<const T*>(args.u);
  for (std::int64_t r = 0; r < args.rows; ++r) {
    const T* w = static_cast<const T*>(args.w) + r * args.ldw;
    T* out = static_cast<T*>(args.scores) + r * args.ldscores;
    for (std::int64_t j = 0; j < args.cols; ++j) {
      const T ratio = w[j] / u[j * args.ldu + j];
      out[j] = ratio * ratio;
    }
  }
}

#if defined(GOSSAMER_AVX512)
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;
#endif
constexpr int kTileRows = 6;

template <class T, int M>
GOSSAMER_INLINE void tile(T* c, std::int64_t ldc, const T* err, std::int64_t lderr, const T* panel,
                          std::int64_t depth) {
  constexpr int W = kLanes<T>, V = kTileVectors;
  Vec<T> sum[M][V];
  for (int i = 0; i < M; ++i) {
    for (int v = 0; v < V; ++v) sum[i][v] = load<W>(c + i * ldc + v * W);
  }
  for (std::int64_t d = 0; d < depth; ++d) {
    Vec<T> b[V];
    for (int v = 0; v < V; ++v) b[v] = load<W>(panel + d * V * W + v * W);
    for (int i = 0; i < M; ++i) {
      const Vec<T> a = broadcast<W>(err[i * lderr + d]);
      for (int v = 0; v < V; ++v) sum[i][v] -= a * b[v];
    }
  }
  for (int i = 0; i < M; ++i) {
    for (int v = 0; v < V; ++v) store<W>(c + i * ldc + v * W, sum[i][v]);
  }
}

/// A tile with `cols` < P columns, computed in a copy.
template <class T, int M, int P>
void narrow_tile(T* c, std::int64_t ldc, const T* err, std::int64_t lderr, const T* panel,
                 std::int64_t depth, std::int64_t cols) {
  T copy[M * P] = {};
  for (int i = 0; i < M; ++i) {
    for (std::int64_t j = 0; j < cols; ++j) copy[i * P + j] = c[i * ldc + j];
  }
  tile<T, M>(copy, P, err, lderr, panel, depth);
  for (int i = 0; i < M; ++i) {
    for (std::int64_t j = 0; j < cols; ++j) c[i * ldc + j] = copy[i * P + j];
  }
}

template <class T>
void tail(const ObsTailArgs& args) {
  constexpr int P = kTileVectors * kLanes<T>;
  static_assert(P <= kObsPanel);
  const T* u = static_cast<const T*>(args.u);
  T* panel = static_cast<T*>(args.panel);
  for (std::int64_t j = 0; j < args.cols; j += P) {
    const std::int64_t cols = min_i64(P, args.cols - j);
    for (std::int64_t d = 0; d < args.depth; ++d) {
      for (std::int64_t i = 0; i < P; ++i) {
        panel[d * P + i] = i < cols ? u[d * args.ldu + j + i] : T{0};
      }
    }
    const auto rows = [&](std::int64_t r, auto height) {
      constexpr int M = decltype(height)::value;
      T* c = static_cast<T*>(args.c) + r * args.ldc + j;
      const T* err = static_cast<const T*>(args.err) + r * args.lderr;
      if (cols == P) {
        tile<T, M>(c, args.ldc, err, args.lderr, panel, args.depth);
      } else {
        narrow_tile<T, M, P>(c, args.ldc, err, args.lderr, panel, args.depth, cols);
      }
    };
    std::int64_t r = 0;
    for (; r + kTileRows <= args.rows; r += kTileRows) rows(r, Int<kTileRows>{});
    for (; r < args.rows; ++r) rows(r, Int<1>{});
  }
}

}  // namespace

void obs_block(const ObsBlockArgs& args);
void obs_block(const ObsBlockArgs& args) { args.f64 ? block<double>(args) : block<float>(args); }

void obs_score(const ObsScoreArgs& args);
void obs_score(const ObsScoreArgs& args) { args.f64 ? score<double>(args) : score<float>(args); }

void obs_tail(const ObsTailArgs& args);
void obs_tail(const ObsTailArgs& args) { args.f64 ? tail<double>(args) : tail<float>(args); }

}  // namespace gossamer::detail::GOSSAMER_LEVEL
