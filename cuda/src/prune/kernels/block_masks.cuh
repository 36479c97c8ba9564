#pragma once

// Blocks of a matrix reduced to one number each, with the CPU's bits
// (cpp/src/prune/patterns/kernels/block_pool.cpp), and masks of blocks repeated over their
// elements.

#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"
#include "prune/kernels/keys.cuh"

namespace gossamer::cuda {

inline constexpr int kPoolThreads = 256;

struct BlockPoolArgs {
  ScoreArgs score;
  bool direct, magnitude;  // the score is w, or |w|
  prune::Reduce reduce;
  std::int64_t rows, cols;     // of the matrix
  std::int64_t height, width;  // of a block
  std::int64_t wide;           // blocks side by side
  std::int64_t groups;         // thread blocks for these
  int share;                   // threads of a block, a power of two
  int turn_bits;               // each has 2^turn_bits columns
};

__device__ inline float scaled(float x, int exponent) { return ldexpf(x, exponent); }
__device__ inline double scaled(double x, int exponent) { return ldexp(x, exponent); }
__device__ inline int exponent_of(float x) { return ilogbf(x); }
__device__ inline int exponent_of(double x) { return ilogb(x); }

/// The greatest finite number, and the root of the least normal one.
__device__ inline float most(float) { return __uint_as_float(0x7f7fffffu); }
__device__ inline double most(double) { return __longlong_as_double(0x7fefffffffffffffll); }
__device__ inline float root_of_least(float) { return 0x1p-63f; }
__device__ inline double root_of_least(double) { return 0x1p-511; }

/// A thread adds up columns, the threads of a block then add theirs in a tree: of the columns c and
/// c + h for h = P/2, P/4, …, 1, P being the least power of two that is at least the width. Blocks
/// of up to 256 columns share a thread block; where they are wider, a thread has the columns that
/// lie 256 apart, and takes them in the order in which the tree needs them.
///
/// A result for which squares or sums left the range of S is computed again from elements that are
/// scaled by a power of two.
template <class S>
__global__ void __launch_bounds__(kPoolThreads)
    block_pool_columns(const __grid_constant__ BlockPoolArgs a, S* __restrict__ out) {
  __shared__ S parts[kPoolThreads];
  S* stack = dynamic_shared<S>();  // [turn_bits][kPoolThreads]
  const int thread = static_cast<int>(threadIdx.x);
  const int share = a.share, own = thread / share, lane = thread % share;
  const std::int64_t row = blockIdx.x / a.groups;
  const std::int64_t j = (blockIdx.x - row * a.groups) * (kPoolThreads / share) + own;
  const std::int64_t rows = least(a.height, a.rows - row * a.height);
  const std::int64_t cols = j < a.wide ? least(a.width, a.cols - j * a.width) : 0;
  const std::int64_t first = row * a.height * a.cols + j * a.width;
  const bool squares = a.reduce == prune::Reduce::l2;
  const S limit = squares
                      ? static_cast<S>(sqrt(static_cast<S>(rows * a.width))) * root_of_least(S{})
                      : S{0};  // smaller results may be off
  S result = 0, largest_size = 0;
  int exponent = 0;
  bool suspect = false;
  // The reduction; where a result is suspect, the largest magnitude; the reduction of scaled
  // elements.
#pragma unroll 1
  for (int pass = 0; pass < 3; ++pass) {
    const bool sizes = pass == 1, larger = sizes || a.reduce == prune::Reduce::max;
    const bool absolute = sizes || a.magnitude || a.reduce == prune::Reduce::l1;
    bool any = false;  // is there an element other than 0?
    const auto combine = [&](S x, S y) {
      if (!larger) return x + y;
      const S greater = y > x ? y : x;
      return y == y ? greater : y;  // where one is NaN, so is the result
    };
    const auto term = [&](S x) {
      if (pass == 2) x = scaled(x, -exponent);
      if (absolute && x < 0) x = -x;
      any |= x != 0;
      if (sizes) return x <= most(S{}) ? x : static_cast<S>(INFINITY);
      return squares ? times(x, x) : x;
    };
    const auto column = [&](std::int64_t from) {
      const auto add = [&](auto&& load) {
        S sum = term(load(from));
#pragma unroll 4
        for (std::int64_t r = 1; r < rows; ++r) sum = combine(sum, term(load(from + r * a.cols)));
        return sum;
      };
      const auto stored = [&](const auto* w) {
        return add([w](std::int64_t i) { return static_cast<S>(widen(w[i])); });
      };
      if (!a.direct) return add([&](std::int64_t i) { return score_at<S>(a.score, i); });
      if constexpr (sizeof(S) == 8) {
        return stored(static_cast<const double*>(a.score.w));
      } else {
        if (a.score.w_type == DType::f16) return stored(static_cast<const __half*>(a.score.w));
        if (a.score.w_type == DType::bf16) {
          return stored(static_cast<const __nv_bfloat16*>(a.score.w));
        }
        return stored(static_cast<const float*>(a.score.w));
      }
    };
    const S none = larger ? static_cast<S>(-INFINITY) : S{0};
    S sum = none;
    const unsigned turns = 1u << a.turn_bits;
    for (unsigned turn = 0; turn < turns; ++turn) {
      // Bits reversed: what is added first lies farthest apart.
      const unsigned at = a.turn_bits == 0 ? 0 : __brev(turn) >> (32 - a.turn_bits);
      const std::int64_t c = lane + static_cast<std::int64_t>(at) * share;
      sum = c < cols ? column(first + c) : none;
      int level = 0;
      for (unsigned done = turn; (done & 1u) != 0; done >>= 1) {
        sum = combine(stack[level++ * kPoolThreads + thread], sum);
      }
      if (turn + 1 < turns) stack[level * kPoolThreads + thread] = sum;
    }
    int h = share / 2;
    for (; h >= 32; h /= 2) {
      parts[thread] = sum;
      __syncthreads();  // orders the sums before their reads
      if (lane < h) sum = combine(sum, parts[thread + h]);
      __syncthreads();  // orders these reads before the next writes
    }
    for (; h >= 1; h /= 2) sum = combine(sum, __shfl_xor_sync(kAllLanes, sum, h));
    if (lane == 0) {
      if (!sizes && a.reduce == prune::Reduce::mean) sum /= static_cast<S>(rows * cols);
      if (!sizes && squares) sum = static_cast<S>(sqrt(sum));
      parts[own] = sum;
    }
    __syncthreads();  // orders the results before their reads
    sum = parts[own];
    __syncthreads();  // orders these reads before the next pass
    if (pass == 0) {
      result = sum;
      const bool repairs = squares || a.reduce == prune::Reduce::mean;
      const S size = result < 0 ? -result : result;
      suspect = repairs && cols > 0 && !(size >= limit && size <= most(S{}));
      if (__syncthreads_or(suspect && (result != 0 || any) ? 1 : 0) == 0) break;
    } else if (pass == 1) {
      largest_size = sum;
      suspect &= largest_size > 0 && largest_size <= most(S{});
      exponent = suspect ? exponent_of(largest_size) : 0;
    } else if (suspect) {
      result = scaled(sum, exponent);
    }
  }
  if (lane == 0 && cols > 0) out[row * a.wide + j] = result;
}

struct ExpandBlocksArgs {
  const std::uint8_t* mask;  // [blocks]
  std::int64_t wide;         // blocks side by side
  std::int64_t height, width;
  std::uint8_t* out;
  std::int64_t rows, cols;
  std::int64_t runs;  // of a row
  bool aligned;       // all runs but the last of a row may be written at once
};

/// Elements of a thread.
inline constexpr int kExpandRun = 16;

static __global__ void __launch_bounds__(kPoolThreads) block_expand_runs(ExpandBlocksArgs a) {
  const std::int64_t at =
      static_cast<std::int64_t>(blockIdx.x) * kPoolThreads + static_cast<int>(threadIdx.x);
  const std::int64_t row = at / a.runs;
  if (row >= a.rows) return;
  const std::int64_t first = (at - row * a.runs) * kExpandRun, left = a.cols - first;
  const int count = left < kExpandRun ? static_cast<int>(left) : kExpandRun;
  const std::uint8_t* blocks = a.mask + row / a.height * a.wide;
  std::int64_t j = first / a.width, rest = (j + 1) * a.width - first;
  std::uint8_t mark = blocks[j] != 0 ? 1 : 0;
  Pack<std::uint8_t, kExpandRun> marks;
#pragma unroll
  for (int e = 0; e < kExpandRun; ++e) {
    if (rest == 0 && e < count) {
      mark = blocks[++j] != 0 ? 1 : 0;
      rest = a.width;
    }
    --rest;
    marks.at[e] = mark;
  }
  std::uint8_t* to = a.out + row * a.cols + first;
  if (a.aligned && count == kExpandRun) {
    store_pack(to, marks);
    return;
  }
#pragma unroll
  for (int e = 0; e < kExpandRun; ++e) {
    if (e < count) to[e] = marks.at[e];
  }
}

}  // namespace gossamer::cuda
