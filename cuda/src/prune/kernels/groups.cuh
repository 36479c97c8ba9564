#pragma once

// Groups of weights: their Euclidean norms, factors made of these, and weights times factors;
// thresholds of channels. Sums are kept in float64 and have a fixed order.

#include "base/kernels/pack.cuh"
#include "prune/kernels/select_scan.cuh"

namespace gossamer::cuda {

inline constexpr int kGroupThreads = 256, kGroupTeams = kGroupThreads / 32;
inline constexpr double kMostDouble = 1.7976931348623157e308;
inline constexpr double kLeastDouble = 2.2250738585072014e-308;
inline constexpr double kLeastFloat = 1.17549435082228751e-38;

struct LargerSize {  // NaN before all
  __device__ double operator()(double a, double b) const { return b > a || b != b ? b : a; }
};
struct SumOfTwo {
  __device__ double operator()(double a, double b) const { return a + b; }
};

/// The sum, or the largest size, over the threads of a block.
template <class Join>
__device__ inline double over_block(double own, Join&& join) {
  __shared__ double warps[kGroupTeams];
  for (int step = 16; step > 0; step /= 2) own = join(own, __shfl_xor_sync(kAllLanes, own, step));
  __syncthreads();  // orders the reads of an earlier call before these writes
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = own;
  __syncthreads();  // orders the writes of the warps' results before their reads
  double all = warps[0];
  for (int warp = 1; warp < kGroupTeams; ++warp) all = join(all, warps[warp]);
  return all;
}

template <class T>
struct GroupRunsArgs {
  const T* x;
  std::int64_t stride, length, across, count;  // across: groups of a row
  int lanes;  // of a group: a power of two up to 32, or 0 for a block
  double* norms;
};

/// norms[g] = √Σx² of runs of columns. float64 whose squares leave its range is scaled.
template <class T>
__global__ void __launch_bounds__(kGroupThreads)
    group_norms_runs(const __grid_constant__ GroupRunsArgs<T> a) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lanes = a.lanes == 0 ? kGroupThreads : a.lanes;
  const std::int64_t g =
      static_cast<std::int64_t>(blockIdx.x) * (kGroupThreads / lanes) + thread / lanes;
  const bool exists = g < a.count;
  const std::int64_t n = exists ? a.length : 0;
  const T* x = exists ? a.x + g / a.across * a.stride + g % a.across * a.length : a.x;
  const auto together = [&](double own, auto&& join) {
    if (a.lanes == 0) return over_block(own, join);
    for (int step = 1; step < a.lanes; step *= 2) {
      own = join(own, __shfl_xor_sync(kAllLanes, own, step));
    }
    return own;
  };
  double sum = 0;
#pragma unroll 4
  for (std::int64_t i = thread % lanes; i < n; i += lanes) {
    const auto value = static_cast<double>(widen(x[i]));
    sum += value * value;
  }
  sum = together(sum, SumOfTwo());
  double norm = sqrt(sum);
  if constexpr (sizeof(T) == 8) {
    const bool fits = sum >= static_cast<double>(n) * kLeastDouble && sum <= kMostDouble;
    // The same in a block that has one group.
    if (__any_sync(kAllLanes, !fits)) {
      double top = 0;
      for (std::int64_t i = thread % lanes; i < n; i += lanes) top = LargerSize()(top, fabs(x[i]));
      top = together(top, LargerSize());
      const bool finite = top <= kMostDouble;
      const int exponent = finite && top > 0 ? ilogb(top) : 0;
      double scaled = 0;
      for (std::int64_t i = thread % lanes; i < n; i += lanes) {
        const double value = ldexp(x[i], -exponent);
        scaled += value * value;
      }
      scaled = together(scaled, SumOfTwo());
      if (!fits && finite) norm = ldexp(sqrt(scaled), exponent);
    }
  }
  if (exists && thread % lanes == 0) a.norms[g] = norm;
}

template <class T>
struct GroupColumnsArgs {
  const T* x;
  std::int64_t stride, rows, cols;
  const double* squares;  // sums of squares, as of ColumnStats
  double* norms;
};

/// norms[c] = √squares[c]; columns whose squares may have left the range of their sums are added
/// up again, scaled. 32 columns a block.
template <class T>
__global__ void __launch_bounds__(kGroupThreads)
    group_norms_columns(const __grid_constant__ GroupColumnsArgs<T> a) {
  __shared__ double parts[kGroupTeams][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x) * 32 + lane;
  const bool exists = col < a.cols;
  const double square = exists ? a.squares[col] : 1;
  const double least_square =
      static_cast<double>(a.rows) * (sizeof(T) == 8 ? kLeastDouble : kLeastFloat);
  const bool suspect = exists && !(square >= least_square && square <= kMostDouble);
  double norm = sqrt(square);
  const auto together = [&](double own, auto&& join) {
    parts[warp][lane] = own;
    __syncthreads();  // orders the writes of the parts before their reads
    double all = parts[0][lane];
    for (int w = 1; w < kGroupTeams; ++w) all = join(all, parts[w][lane]);
    __syncthreads();  // orders these reads before the next writes
    return all;
  };
  // All warps have the same columns.
  if (__any_sync(kAllLanes, suspect)) {
    const std::int64_t rows = suspect ? a.rows : 0;
    const auto at = [&](std::int64_t r) {
      return static_cast<double>(widen(a.x[r * a.stride + col]));
    };
    double top = 0;
#pragma unroll 4
    for (std::int64_t r = warp; r < rows; r += kGroupTeams) top = LargerSize()(top, fabs(at(r)));
    top = together(top, LargerSize());
    const bool again = top > 0 && top <= kMostDouble;
    const int exponent = again ? ilogb(top) : 0;
    double scaled = 0;
    for (std::int64_t r = warp; r < (again ? rows : 0); r += kGroupTeams) {
      const double value = ldexp(at(r), -exponent);
      scaled += value * value;
    }
    scaled = together(scaled, SumOfTwo());
    if (suspect && again) norm = ldexp(sqrt(scaled), exponent);
    if (suspect && top == 0) norm = 0;
  }
  if (warp == 0 && exists) a.norms[col] = norm;
}

__device__ inline std::int64_t group_at() {
  return static_cast<std::int64_t>(blockIdx.x) * kGroupThreads + static_cast<int>(threadIdx.x);
}

/// norms[g] = max(0, 1 - threshold/norm), of the group lasso.
static __global__ void __launch_bounds__(kGroupThreads)
    group_soft_factors(double* norms, std::int64_t count, double threshold) {
  const std::int64_t g = group_at();
  if (g >= count) return;
  const double norm = norms[g];
  norms[g] = norm > threshold ? 1 - threshold / norm : norm != norm ? norm : 0;
}

/// *most = the bits of the largest norm, which NaN and infinity exceed.
static __global__ void __launch_bounds__(kGroupThreads)
    group_most(const double* norms, std::int64_t count, Count* most) {
  Count own = 0;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kGroupThreads;
  for (std::int64_t g = group_at(); g < count; g += step) own = largest(own, bits_of(norms[g]));
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    own = largest(own, __shfl_xor_sync(kAllLanes, own, lanes));
  }
  if (threadIdx.x % 32 == 0) atomicMax(most, own);
}

/// Slopes that a pass of the search for one tries, and passes: the interval becomes an eighth.
inline constexpr int kSlopes = 7, kSlopePasses = 22;

/// The slope s = 1/η with Σ clip(norm·s - λ, 0, 1) = k is the least float64 that reaches k: in
/// (low, high], as bits. Zeros at first.
struct EnvelopeState {
  Count low, high;
  unsigned tickets[kSlopePasses];
};

struct EnvelopeArgs {
  double* norms;
  std::int64_t count;
  double lambda, k;
  int exponent;  // norms count in units of 2^exponent
  EnvelopeState* state;
  double* sums;  // [blocks][kSlopes]
};

/// u of a group.
__device__ inline double envelope_share(double norm, const EnvelopeArgs& a, double slope) {
  const double share = times(ldexp(norm, -a.exponent), slope) - a.lambda;
  return norm > 0 && share > 0 ? least(share, 1.0) : 0;
}

__device__ inline double number_at(Count bits) {
  return __longlong_as_double(static_cast<long long>(bits));
}

/// One pass of the search.
static __global__ void __launch_bounds__(kGroupThreads)
    group_slope(const __grid_constant__ EnvelopeArgs a, int pass) {
  EnvelopeState& state = *a.state;
  const Count low = state.low, high = pass == 0 ? bits_of(kMostDouble) : state.high;
  const Count width = high - low;
  const auto slope = [&](int i) {  // without overflow: width < 2^63
    return low + width / (kSlopes + 1) * static_cast<Count>(i + 1) +
           width % (kSlopes + 1) * static_cast<Count>(i + 1) / (kSlopes + 1);
  };
  double sums[kSlopes] = {}, slopes[kSlopes];
#pragma unroll
  for (int i = 0; i < kSlopes; ++i) slopes[i] = number_at(slope(i));
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kGroupThreads;
  for (std::int64_t g = group_at(); g < a.count; g += step) {
    const double norm = a.norms[g];
#pragma unroll
    for (int i = 0; i < kSlopes; ++i) sums[i] += envelope_share(norm, a, slopes[i]);
  }
#pragma unroll
  for (int i = 0; i < kSlopes; ++i) {
    const double sum = over_block(sums[i], SumOfTwo());
    if (threadIdx.x == 0) a.sums[static_cast<std::int64_t>(blockIdx.x) * kSlopes + i] = sum;
  }
  if (!is_last_block(state.tickets + pass, gridDim.x)) return;
  const int thread = static_cast<int>(threadIdx.x);
  __shared__ double totals[kSlopes];
  if (thread < kSlopes) {
    double total = 0;
    for (unsigned block = 0; block < gridDim.x; ++block) {
      total += __ldcg(a.sums + static_cast<std::int64_t>(block) * kSlopes + thread);
    }
    totals[thread] = total;
  }
  __syncthreads();  // orders the totals before their reads
  if (thread != 0) return;
  int reached = 0;
  while (reached < kSlopes && totals[reached] < a.k) ++reached;
  if (reached > 0) state.low = slope(reached - 1);
  state.high = reached < kSlopes ? slope(reached) : high;
}

/// norms[g] = u/(λ + u).
static __global__ void __launch_bounds__(kGroupThreads)
    group_envelope_factors(const __grid_constant__ EnvelopeArgs a) {
  const std::int64_t g = group_at();
  if (g >= a.count) return;
  const double u = envelope_share(a.norms[g], a, number_at(a.state->high));
  a.norms[g] = u > 0 && a.k > 0 ? u / (a.lambda + u) : 0;
}

template <class T>
struct GroupScaleArgs {
  T* x;
  std::int64_t stride, rows, cols, length, across;  // length 1 and across 0: groups are columns
  double inverse;                                   // 1/length: a division would be a call
  const double* factors;
  bool wide;  // 16 bytes of x may be accessed at once
};

/// x times the factor of its group; 0 gives 0. A thread has the elements of 16 bytes of a row.
template <class T>
__global__ void __launch_bounds__(kGroupThreads)
    group_scale(const __grid_constant__ GroupScaleArgs<T> a) {
  constexpr int kOwn = 16 / static_cast<int>(sizeof(T));
  const std::int64_t j = group_at() * kOwn;
  if (j >= a.cols) return;
  const int own = static_cast<int>(least<std::int64_t>(kOwn, a.cols - j));
  const bool whole = a.wide && own == kOwn;
  auto first = static_cast<std::int64_t>(static_cast<double>(j) * a.inverse);
  if (first * a.length > j) --first;
  if ((first + 1) * a.length <= j) ++first;
  const std::int64_t before = (first + 1) * a.length - j;
  for (std::int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    T* x = a.x + row * a.stride + j;
    const double* factors = a.factors + row * a.across + first;
    std::int64_t left = before;
    const auto scaled = [&](T value) {
      const auto factor = static_cast<Sum<T>>(*factors);
      if (--left == 0) {
        left = a.length;
        ++factors;
      }
      return narrow<T>(factor == 0 ? Sum<T>{0} : widen(value) * factor);
    };
    if (whole) {
      auto pack = load_pack<kOwn>(x);
#pragma unroll
      for (int e = 0; e < kOwn; ++e) pack.at[e] = scaled(pack.at[e]);
      store_pack(x, pack);
    } else {
      for (int e = 0; e < own; ++e) x[e] = scaled(x[e]);
    }
  }
}

/// scale/norm, infinite where the norm is 0.
__device__ inline float threshold_of(double scale, double norm) {
  return norm == 0 ? INFINITY : static_cast<float>(scale / norm);
}

/// out[c] = scale/√squares[c].
static __global__ void __launch_bounds__(kGroupThreads)
    group_channel_thresholds(const void* squares, DType type, std::int64_t count, double scale,
                             float* out) {
  const std::int64_t c = group_at();
  if (c < count) out[c] = threshold_of(scale, sqrt(operand<double>(squares, type, c)));
}

/// out[c] = t/norms[c]. `rounds` as ColumnStats does, whose sums of squares are float32 where they
/// fit.
static __global__ void __launch_bounds__(kGroupThreads)
    group_cett_thresholds(const double* norms, bool rounds, std::int64_t count, double t,
                          float* out) {
  const std::int64_t c = group_at();
  if (c >= count) return;
  const double norm = norms[c];
  const auto square = static_cast<float>(norm * norm);
  const bool normal = square >= static_cast<float>(kLeastFloat) && square <= 3.40282347e38f;
  out[c] = threshold_of(t, rounds && normal ? sqrt(static_cast<double>(square)) : norm);
}

/// *value = t·‖γ‖₁ - ‖γ - α·mean‖₁ and a subgradient, one block.
template <class T>
__global__ void __launch_bounds__(kGroupThreads)
    group_polarization(const T* gamma, std::int64_t n, double t, double alpha, T* grad,
                       double* value) {
  const auto sign = [](double x) { return x > 0 ? 1.0 : (x < 0 ? -1.0 : 0.0); };
  const auto at = [&](std::int64_t i) { return static_cast<double>(widen(gamma[i])); };
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kGroupThreads) sum += at(i);
  const double mean = over_block(sum, SumOfTwo()) / static_cast<double>(n);
  const double middle = times(alpha, mean);
  double own = 0, signs = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kGroupThreads) {
    const double x = at(i), from = x - middle;
    own += times(t, fabs(x)) - fabs(from);
    signs += sign(from);
  }
  const double total = over_block(own, SumOfTwo());
  const double shared = times(alpha, over_block(signs, SumOfTwo())) / static_cast<double>(n);
  for (std::int64_t i = threadIdx.x; i < n; i += kGroupThreads) {
    const double x = at(i);
    grad[i] = narrow<T>(static_cast<Sum<T>>(times(t, sign(x)) - sign(x - middle) + shared));
  }
  if (threadIdx.x == 0) *value = total;
}

}  // namespace gossamer::cuda
