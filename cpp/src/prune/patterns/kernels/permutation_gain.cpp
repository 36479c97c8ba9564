// The sums that a search of column permutations compares. If column a of a group is exchanged for
// column b, the group's sum of n largest becomes Σ (the n-1 largest of the other columns) + Σ
// max(the n-th of the others, b), both over the rows. Over all pairs (a, b), the second sum is a
// matrix product with max in place of multiplication.

#include "prune/patterns/args.h"
#include "simd/lanes16.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

using V = Lanes16<float>;
constexpr std::int64_t kChunk = 256;
constexpr int kMostMembers = 64;

/// The sums of one group of M columns (M = 0: of `m`).
template <int M>
void group(const PermutationGroupArgs& a) {
  constexpr int kMax = M == 0 ? kMostMembers : M;
  const int m = M == 0 ? a.m : M;
  double total = 0.0;
  for (int i = 0; i < m; ++i) a.sum[i] = 0.0;
  for (std::int64_t begin = 0; begin < a.ld; begin += kChunk) {
    const std::int64_t end = min_i64(begin + kChunk, a.ld);
    V all = V::zero();
    V rest[kMax];
    for (int i = 0; i < m; ++i) rest[i] = V::zero();
    for (std::int64_t r = begin; r < end; r += 16) {
      V sorted[kMax], mine[kMax];
      for (int i = 0; i < m; ++i) {
        V x = mine[i] = V::at(a.x + a.member[i] * a.ld + r);
        for (int j = 0; j < i; ++j) {
          const V held = sorted[j];
          sorted[j] = larger(held, x);
          x = smaller(held, x);
        }
        sorted[i] = x;
      }
      V most = V::zero();  // the n-1 largest
      for (int j = 0; j + 1 < a.n; ++j) most = most + sorted[j];
      const V both = most + sorted[a.n - 1];
      all = all + both;
      for (int i = 0; i < m; ++i) {
        where_reaches(mine[i], sorted[a.n - 1], sorted[a.n], sorted[a.n - 1])
            .to(a.next + i * a.ld + r);
        if (a.n > 1) {
          rest[i] = rest[i] + where_reaches(mine[i], sorted[a.n - 2], both - mine[i], most);
        }
      }
    }
    total += static_cast<double>(all.sum());
    for (int i = 0; i < m; ++i) a.sum[i] += static_cast<double>(rest[i].sum());
  }
  *a.total = total;
}

/// Computes A x B sums at a time.
template <int A, int B>
GOSSAMER_INLINE void pairs(const PermutationPairsArgs& a, std::int64_t i, std::int64_t c,
                           std::int64_t begin, std::int64_t end) {
  V sum[A][B];
#pragma GCC unroll 4
  for (int p = 0; p < A; ++p) {
#pragma GCC unroll 4
    for (int q = 0; q < B; ++q) sum[p][q] = V::zero();
  }
  for (std::int64_t r = begin; r < end; r += 16) {
    V x[B];
#pragma GCC unroll 4
    for (int q = 0; q < B; ++q) x[q] = V::at(a.x + (c + q) * a.ld + r);
#pragma GCC unroll 4
    for (int p = 0; p < A; ++p) {
      const V next = V::at(a.next + (i + p) * a.ld + r);
#pragma GCC unroll 4
      for (int q = 0; q < B; ++q) sum[p][q] = sum[p][q] + larger(next, x[q]);
    }
  }
  for (int p = 0; p < A; ++p) {
    for (int q = 0; q < B; ++q) {
      double& out = a.out[(i + p) * a.stride + c + q];
      out = (begin == 0 ? 0.0 : out) + static_cast<double>(sum[p][q].sum());
    }
  }
}

template <int A>
GOSSAMER_INLINE void pair_rows(const PermutationPairsArgs& a, std::int64_t i, std::int64_t begin,
                               std::int64_t end) {
  constexpr int B = V::kParts == 1 ? 4 : 2;
  std::int64_t c = 0;
  for (; c + B <= a.cols; c += B) pairs<A, B>(a, i, c, begin, end);
  for (; c < a.cols; ++c) pairs<A, 1>(a, i, c, begin, end);
}

}  // namespace

void permutation_group(const PermutationGroupArgs& a);
void permutation_group(const PermutationGroupArgs& a) { a.m == 4 ? group<4>(a) : group<0>(a); }

void permutation_pairs(const PermutationPairsArgs& a);
void permutation_pairs(const PermutationPairsArgs& a) {
  for (std::int64_t begin = 0; begin < a.ld; begin += kChunk) {
    const std::int64_t end = min_i64(begin + kChunk, a.ld);
    std::int64_t i = 0;
    for (; i + 2 <= a.count; i += 2) pair_rows<2>(a, i, begin, end);
    for (; i < a.count; ++i) pair_rows<1>(a, i, begin, end);
  }
}

void permutation_subsets(const PermutationSubsetsArgs& a);
void permutation_subsets(const PermutationSubsetsArgs& a) {
  const auto at = [&](int i, std::int64_t row) { return V::at(a.x + a.column[i] * a.ld + row); };
  float high_of[kChunk], low_of[kChunk];
  for (std::int64_t begin = 0; begin < a.ld; begin += kChunk) {
    const std::int64_t rows = min_i64(kChunk, a.ld - begin);
    double* out = a.out;
    for (int i = 0; i < a.count; ++i) {
      for (int j = i + 1; j < a.count - 2; ++j) {
        for (std::int64_t r = 0; r < rows; r += 16) {
          const V x = at(i, begin + r), y = at(j, begin + r);
          larger(x, y).to(high_of + r);
          smaller(x, y).to(low_of + r);
        }
        for (int k = j + 1; k < a.count - 1; ++k) {
          for (int l = k + 1; l < a.count; ++l, ++out) {
            V sum = V::zero();
            for (std::int64_t r = 0; r < rows; r += 16) {
              const V x = at(k, begin + r), y = at(l, begin + r);
              const V high = V::at(high_of + r), low = V::at(low_of + r);
              const V other_high = larger(x, y), other_low = smaller(x, y);
              V kept = larger(high, other_high);
              if (a.n > 1) {
                const V rest = smaller(high, other_high), second = larger(low, other_low);
                kept = kept + (a.n == 2 ? larger(rest, second) : rest + second);
              }
              sum = sum + kept;
            }
            *out = (begin == 0 ? 0.0 : *out) + static_cast<double>(sum.sum());
          }
        }
      }
    }
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
