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

__device__ inline bool is_finite(double x) { return fabs(x) <= 1.7976931348623157e308; }

/// Makes whole numbers of a block's scores, as on the CPU: finite ones below 2^(bits+1) for `top`,
/// the largest of them; beside infinities fewer bits leave room for a larger number. `fine` where
/// sums have 64 scores at most, else 4096.
class Units {
 public:
  __device__ Units(double top, bool infinite, bool fine) {
    const int bits = fine ? (infinite ? 28 : 46) : (infinite ? 20 : 39);
    const int power = bits + 1023 - static_cast<int>(__double_as_longlong(top) >> 52);
    // Two factors, since one could overflow.
    const int half = (power + 4096) / 2 - 2048;
    one_ = two_to(half), other_ = two_to(power - half), beyond_ = two_to(fine ? 37 : 35);
  }

  __device__ long long operator()(double x) const {
    const double whole = is_finite(x) ? rint(times(times(x, one_), other_))
                         : x > 0      ? beyond_
                                      : -beyond_;
    return static_cast<long long>(whole);
  }

 private:
  static __device__ double two_to(int e) {
    return __longlong_as_double(static_cast<long long>(e + 1023) << 52);
  }

  double one_, other_, beyond_;
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
    const bool finite = is_finite(x[e]);
    infinite |= !finite;
    if (finite && fabs(x[e]) > top) top = fabs(x[e]);
  }
  const Units whole(top, infinite, true);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    long long units[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) units[c] = whole(x[4 * r + c]) * (1ll << kRankBits);
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
