#pragma once

// V:N:M masks, a block of threads for a block of v×m scores, which lie in shared memory. A thread
// adds up what sets of four columns keep: in 16 sums, of rows 16 apart, which are then added as on
// the CPU, so that equal sums are equal there, too. Of the largest sums the first set is taken.

#include "base/kernels/pack.cuh"
#include "prune/kernels/keys.cuh"

namespace gossamer::cuda {

inline constexpr int kVnmThreads = 128;

struct VnmArgs {
  ScoreArgs score;
  std::int64_t wide, cols;  // blocks of a row of them, columns
  int v, m, n;              // 0 < n ≤ 4 < m
  bool greedy;
  std::uint8_t* mask;
};

/// Stands for infinity, and its negative for -infinity and NaN, so that all sums are finite.
template <class T>
__device__ inline T vnm_beyond() {
  return sizeof(T) == 8 ? static_cast<T>(0x1p1000) : static_cast<T>(0x1p110);
}

/// Adds up value(row) of all rows.
template <class T, class F>
__device__ inline T vnm_sum(int rows, F&& value) {
  T sum[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) sum[i] = 0;
#pragma unroll 1
  for (int r = 0; r < rows; r += 16) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (r + i < rows) sum[i] += value(r + i);
    }
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < 8 >> step) sum[i] += sum[i + (8 >> step)];
    }
  }
  return sum[0];
}

/// The sum of the n largest of four.
template <class T>
__device__ inline T vnm_kept(T a, T b, T c, T d, int n) {
  const T high = largest(a, b), low = least(a, b);
  if (n == 2) return largest(largest(a + b, high + c), largest(high, c) + d);
  const T other_high = largest(c, d), other_low = least(c, d), first = largest(high, other_high);
  if (n == 1) return first;
  const T all = first + (least(high, other_high) + largest(low, other_low));
  return n == 3 ? all : all + least(low, other_low);
}

/// Columns a < b < c < d as bytes, the set number `at` in lexicographic order.
__device__ inline unsigned vnm_set(int at, int m) {
  const auto pairs = [](int k) { return k * (k - 1) / 2; };
  const auto triples = [](int k) { return k * (k - 1) * (k - 2) / 6; };
  int a = 0, b = 0, c = 0;
  for (; at >= triples(m - 1 - a); ++a) at -= triples(m - 1 - a);
  for (b = a + 1; at >= pairs(m - 1 - b); ++b) at -= pairs(m - 1 - b);
  for (c = b + 1; at >= m - 1 - c; ++c) at -= m - 1 - c;
  return static_cast<unsigned>(a << 24 | b << 16 | c << 8 | (c + 1 + at));
}

template <class T>
struct VnmBest {
  T sum;
  int at;
};

/// The first of the largest of all threads' sums; at < 0: a thread has none.
template <class T>
__device__ inline int vnm_first(VnmBest<T> own, VnmBest<T>* all) {
  const int t = static_cast<int>(threadIdx.x);
  __syncthreads();  // orders the reads of the last search before these writes
  all[t] = own;
  for (int half = kVnmThreads / 2; half > 0; half /= 2) {
    __syncthreads();  // orders each step's writes before the next one's reads
    if (t >= half) continue;
    const VnmBest<T> other = all[t + half];
    const bool better = other.at >= 0 && (all[t].at < 0 || other.sum > all[t].sum ||
                                          (other.sum == all[t].sum && other.at < all[t].at));
    if (better) all[t] = other;
  }
  __syncthreads();  // orders the last step's write before its reads
  return all[0].at;
}

/// Six blocks a multiprocessor leave registers for what is kept while a score is computed.
template <class T>
__global__ void __launch_bounds__(kVnmThreads, 6) vnm_blocks(const __grid_constant__ VnmArgs a) {
  __shared__ VnmBest<T> all[kVnmThreads];
  const int t = static_cast<int>(threadIdx.x), v = a.v, m = a.m, pitch = v + 1;
  T* columns = dynamic_shared<T>();  // [m][pitch]; where greedy, [n][v] more
  const std::int64_t row = blockIdx.x / a.wide;
  const std::int64_t first = row * v * a.cols + (blockIdx.x - row * a.wide) * m;
  for (int i = t; i < v * m; i += kVnmThreads) {
    const int r = i / m, c = i - r * m;
    const T x = score_at<T>(a.score, first + r * a.cols + c), most = vnm_beyond<T>();
    const T low = x >= -most ? x : -most;
    columns[c * pitch + r] = low > most ? most : low;
  }
  __syncthreads();  // orders the writes of the scores before their reads
  unsigned chosen = 0;
  if (a.greedy) {
    T* held = columns + m * pitch;  // the n largest of each row's chosen columns
    for (int i = t; i < a.n * v; i += kVnmThreads) held[i] = -2 * vnm_beyond<T>();
    unsigned long long taken = 0;
    for (int pick = 0; pick < 4; ++pick) {
      __syncthreads();  // orders the writes of what is held before its reads
      VnmBest<T> own{0, -1};
      if (t < m && (taken >> t & 1u) == 0) {
        own = {
            vnm_sum<T>(
                v, [&](int r) { return largest(columns[t * pitch + r], held[(a.n - 1) * v + r]); }),
            t};
      }
      const int best = vnm_first(own, all);
      taken |= 1ull << best;
      for (int r = t; r < v; r += kVnmThreads) {
        T x = columns[best * pitch + r];
        for (int j = 0; j < a.n; ++j) {
          const T before = held[j * v + r];
          held[j * v + r] = largest(before, x);
          x = least(before, x);
        }
      }
    }
    for (int c = 0, shift = 24; c < m; ++c) {
      if ((taken >> c & 1u) == 0) continue;
      chosen |= static_cast<unsigned>(c) << shift;
      shift -= 8;
    }
  } else {
    const int sets = m * (m - 1) / 2 * (m - 2) / 3 * (m - 3) / 4;
    VnmBest<T> own{0, -1};
    for (int at = t; at < sets; at += kVnmThreads) {
      const unsigned set = vnm_set(at, m);
      const T* x[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = columns + (set >> (24 - 8 * i) & 255u) * pitch;
      const T sum =
          vnm_sum<T>(v, [&](int r) { return vnm_kept(x[0][r], x[1][r], x[2][r], x[3][r], a.n); });
      if (own.at < 0 || sum > own.sum) own = {sum, at};
    }
    chosen = vnm_set(vnm_first(own, all), m);
  }
  for (int i = t; i < v * m; i += kVnmThreads) {
    const int r = i / m, c = i - r * m;
    const auto score = [&](int column) {
      return score_at<T>(a.score, first + r * a.cols + column);
    };
    bool kept = false;
    int before = 0;
    const T own = score(c);
#pragma unroll 1
    for (int k = 0; k < 4; ++k) {
      const auto column = static_cast<int>(chosen >> (24 - 8 * k) & 255u);
      if (column == c) {
        kept = true;
        continue;
      }
      const T other = score(column);
      const bool earlier = column < c;
      // NaN comes last.
      const bool precedes = own != own || other != other ? own != own && (other == other || earlier)
                                                         : other > own || (other == own && earlier);
      before += precedes ? 1 : 0;
    }
    a.mask[first + r * a.cols + c] = kept && before < a.n ? 1 : 0;
  }
}

}  // namespace gossamer::cuda
