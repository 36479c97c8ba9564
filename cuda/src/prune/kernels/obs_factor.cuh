#pragma once

// The upper U with H⁻¹ = Uᵀ·U, in float64. a is H with rows and columns reversed, [n, n]. Panels of
// 32 columns: with a = L·Lᵀ, step j leaves the rows j of L⁻¹ in the rows j of a, and in those
// below, what is L⁻¹ before the rows of later panels act on it. A panel of L is needed in its step
// only, so that L⁻¹ takes its place. u = L⁻¹, reversed again.

#include "base/kernels/pack.cuh"
#include "prune/kernels/keys.cuh"
#include "prune/kernels/obs.cuh"

namespace gossamer::cuda {

/// What the host asks for at the end, and the scale of H.
struct FactorState {
  int not_finite, not_definite;
  int exponent;  // H times 2^exponent is factored
  double shift;  // added to its diagonal
};

inline constexpr int kScaleThreads = 1024;

/// One block: the power of four that brings the diagonal near 1, and the damping.
__global__ void __launch_bounds__(kScaleThreads)
    obs_scale(const void* h, DType type, std::int64_t ldh, std::int64_t n, double damping,
              FactorState* state) {
  __shared__ double most[kScaleThreads], total[kScaleThreads];
  const int t = static_cast<int>(threadIdx.x);
  double peak = 0, sum = 0;
  for (std::int64_t i = t; i < n; i += kScaleThreads) {
    peak = largest(peak, fabs(operand<double>(h, type, i * ldh + i)));
  }
  most[t] = peak;
  __syncthreads();  // orders the writes before the reads of the reduction
  for (int half = kScaleThreads / 2; half > 0; half /= 2) {
    if (t < half) most[t] = largest(most[t], most[t + half]);
    __syncthreads();  // orders each step's writes before the next one's reads
  }
  peak = most[0];
  const int size = peak > 0 && isfinite(peak) ? ilogb(peak) + 1 : 0;
  const int exponent = -2 * (size >= 0 ? size / 2 : (size - 1) / 2);
  for (std::int64_t i = t; i < n; i += kScaleThreads) {
    sum += ldexp(operand<double>(h, type, i * ldh + i), exponent);
  }
  total[t] = sum;
  __syncthreads();  // orders the writes before the reads of the reduction
  for (int half = kScaleThreads / 2; half > 0; half /= 2) {
    if (t < half) total[t] += total[t + half];
    __syncthreads();  // orders each step's writes before the next one's reads
  }
  if (t == 0) *state = {0, 0, exponent, damping * (total[0] / static_cast<double>(n))};
}

/// a = H reversed, scaled and damped.
__global__ void __launch_bounds__(kObsThreads)
    obs_reverse(const void* h, DType type, std::int64_t ldh, std::int64_t n, FactorState* state,
                double* a) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kObsThreads + static_cast<int>(threadIdx.x);
  if (i >= n * n) return;
  const std::int64_t r = i / n, c = i - r * n;
  const double x = operand<double>(h, type, (n - 1 - r) * ldh + (n - 1 - c));
  if (!isfinite(x)) atomicMax(&state->not_finite, 1);
  a[i] = ldexp(x, state->exponent) + (r == c ? state->shift : 0);
}

/// One warp: the inverse of the Cholesky factor of a block on the diagonal, of side ≤ 32, in its
/// place, with zeros above.
__global__ void __launch_bounds__(32)
    obs_factor_block(double* a, std::int64_t lda, int side, FactorState* state) {
  __shared__ double l[kObsPanel][kObsPanel + 1];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < kObsPanel; ++i) {
    l[i][lane] = i < side && lane < side ? a[i * lda + lane] : (i == lane ? 1 : 0);
  }
  __syncwarp();  // orders the writes of the block before their reads
#pragma unroll 1
  for (int k = 0; k < side; ++k) {
    const double pivot = l[k][k];
    if (!(pivot > 0)) {
      if (lane == 0) state->not_definite = 1;
      return;
    }
    const double root = sqrt(pivot);
    __syncwarp();  // orders the reads of the pivot before its write
    // Row `lane` of column k, then what that takes from the columns to the right.
    if (lane >= k) l[lane][k] = lane == k ? root : l[lane][k] / root;
    __syncwarp();  // orders the writes of the column before their reads
    if (lane > k) {
      const double own = l[lane][k];
#pragma unroll 1
      for (int j = k + 1; j <= lane; ++j) l[lane][j] -= own * l[j][k];
    }
    __syncwarp();  // orders the writes of the rest before the next column's reads
  }
  // Column `lane` of the inverse, from the diagonal down.
  double x[kObsPanel];
#pragma unroll
  for (int i = 0; i < kObsPanel; ++i) {
    double rest = i == lane ? 1 : 0;
#pragma unroll
    for (int k = 0; k < i; ++k) rest -= l[i][k] * x[k];
    x[i] = i < lane ? 0 : rest / l[i][i];
  }
#pragma unroll
  for (int i = 0; i < kObsPanel; ++i) {
    if (i < side && lane < side) a[i * lda + lane] = x[i];
  }
}

/// The other blocks of a step. `inverse` [side, side] is what obs_factor_block left. Rows below it:
/// panel = rows · inverseᵀ, and the rows become 0. Columns to its left: inverse · columns.
struct FactorStepArgs {
  double* a;
  std::int64_t n, first;
  int side;
  double* panel;  // [n, 32]
};

__global__ void __launch_bounds__(kObsThreads) obs_below(const __grid_constant__ FactorStepArgs s) {
  __shared__ double inverse[kObsPanel][kObsPanel + 1];
  __shared__ double rows[kObsWarps][kObsPanel];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  double* block = s.a + s.first * s.n + s.first;
  for (int i = warp; i < kObsPanel; i += kObsWarps) inverse[i][lane] = block[i * s.n + lane];
  const std::int64_t r =
      s.first + kObsPanel + static_cast<std::int64_t>(blockIdx.x) * kObsWarps + warp;
  double* row = s.a + r * s.n + s.first;
  if (r < s.n) rows[warp][lane] = row[lane];
  __syncthreads();  // orders the writes of both operands before their reads
  if (r >= s.n) return;
  double sum = 0;
#pragma unroll 8
  for (int k = 0; k < kObsPanel; ++k) sum += rows[warp][k] * inverse[lane][k];
  s.panel[r * kObsPanel + lane] = sum;
  row[lane] = 0;
}

__global__ void __launch_bounds__(kObsThreads)
    obs_beside(const __grid_constant__ FactorStepArgs s) {
  __shared__ double inverse[kObsPanel][kObsPanel];
  const int t = static_cast<int>(threadIdx.x);
  double* rows = s.a + s.first * s.n;
  for (int i = t; i < kObsPanel * kObsPanel; i += kObsThreads) {
    const int r = i / kObsPanel, c = i % kObsPanel;
    inverse[r][c] = r < s.side && c < s.side ? rows[r * s.n + s.first + c] : 0;
  }
  __syncthreads();  // orders the writes of the inverse before their reads
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x) * kObsThreads + t;
  if (col >= s.first) return;
  double own[kObsPanel];
#pragma unroll
  for (int i = 0; i < kObsPanel; ++i) own[i] = i < s.side ? rows[i * s.n + col] : 0;
#pragma unroll
  for (int i = kObsPanel - 1; i >= 0; --i) {
    double sum = 0;
#pragma unroll
    for (int k = 0; k <= i; ++k) sum += inverse[i][k] * own[k];
    if (i < s.side) rows[i * s.n + col] = sum;
  }
}

/// u = a reversed, with zeros below the diagonal, float64 or float32.
__global__ void __launch_bounds__(kObsThreads)
    obs_return(const double* a, std::int64_t n, void* u, std::int64_t ldu, bool f64) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kObsThreads + static_cast<int>(threadIdx.x);
  if (i >= n * n) return;
  const std::int64_t r = i / n, c = i - r * n;
  const double x = c < r ? 0 : a[(n - 1 - r) * n + (n - 1 - c)];
  if (f64) {
    static_cast<double*>(u)[r * ldu + c] = x;
  } else {
    static_cast<float*>(u)[r * ldu + c] = static_cast<float>(x);
  }
}

}  // namespace gossamer::cuda
