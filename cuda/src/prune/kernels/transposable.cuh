#pragma once

// Transposable masks of 4×4: of all patterns that keep n of each row and of each column, the first
// with the largest sum. Scores become whole numbers in units that depend on the block's largest, as
// on the CPU, so that sums are exact; the lowest bits of a sum say which pattern it is of.

#include "prune/kernels/keys.cuh"

namespace gossamer::cuda {

inline constexpr int kTransposableThreads = 128, kMostSets = 6, kMostPatterns = 90;
inline constexpr int kRankBits = 12;  // three for each of the four rows

struct TransposableArgs {
  ScoreArgs score;
  bool f64;
  std::int64_t blocks, wide, cols;  // blocks, those of a row of them, columns
  std::uint8_t* mask;
  int sets, patterns;
  unsigned long long columns;            // of each set, 4 bits
  std::uint16_t pattern[kMostPatterns];  // the set of each row, 3 bits
};

/// A thread a block of 4×4.
static __global__ void __launch_bounds__(kTransposableThreads)
    nm_transposable(const __grid_constant__ TransposableArgs a) {
  __shared__ long long sums[4 * kMostSets][kTransposableThreads];
  const int t = static_cast<int>(threadIdx.x);
  const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) * kTransposableThreads + t;
  if (block >= a.blocks) return;
  const std::int64_t row = block / a.wide, first = (row * a.cols + block - row * a.wide) * 4;
  double x[16], top = 0;
  bool infinite = false;
#pragma unroll
  for (int e = 0; e < 16; ++e) {
    const std::int64_t i = first + e / 4 * a.cols + e % 4;
    x[e] = a.f64 ? score_at<double>(a.score, i) : static_cast<double>(score_at<float>(a.score, i));
    const bool finite = fabs(x[e]) <= 1.7976931348623157e308;
    infinite |= !finite;
    if (finite && fabs(x[e]) > top) top = fabs(x[e]);
  }
  // Two factors, since one could overflow.
  const auto exponent = static_cast<int>(__double_as_longlong(top) >> 52);
  const int power = (infinite ? 28 : 46) + 1023 - exponent, half = (power + 4096) / 2 - 2048;
  const auto two_to = [](int e) {
    return __longlong_as_double(static_cast<long long>(e + 1023) << 52);
  };
  const double one = two_to(half), other = two_to(power - half), beyond = two_to(37);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    long long units[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const double own = x[4 * r + c];
      const bool finite = fabs(own) <= 1.7976931348623157e308;
      const double whole = finite    ? rint(times(times(own, one), other))
                           : own > 0 ? beyond
                                     : -beyond;
      units[c] = static_cast<long long>(whole) * (1ll << kRankBits);
    }
    for (int s = 0; s < a.sets; ++s) {
      const auto columns = static_cast<int>(a.columns >> (4 * s)) & 15;
      long long sum = static_cast<long long>(7 - s) << (3 * (3 - r));
#pragma unroll
      for (int c = 0; c < 4; ++c) sum += (columns >> c & 1) != 0 ? units[c] : 0;
      sums[r * kMostSets + s][t] = sum;
    }
  }
  long long best = -0x7fffffffffffffff;
#pragma unroll 2
  for (int p = 0; p < a.patterns; ++p) {
    const int sets = a.pattern[p];
    long long sum = 0;
#pragma unroll
    for (int r = 0; r < 4; ++r) sum += sums[r * kMostSets + (sets >> (3 * r) & 7)][t];
    if (sum > best) best = sum;
  }
  const auto rank = static_cast<unsigned>(best & ((1 << kRankBits) - 1));
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const unsigned set = 7 - (rank >> (3 * (3 - r)) & 7u);
    const auto columns = static_cast<unsigned>(a.columns >> (4 * set)) & 15u;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      a.mask[first + r * a.cols + c] = static_cast<std::uint8_t>(columns >> c & 1u);
    }
  }
}

}  // namespace gossamer::cuda
