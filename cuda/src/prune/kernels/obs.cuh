#pragma once

// Optimal Brain Surgeon with the Cholesky factor u of the inverse Hessian, panels of up to 32
// columns at a time, each weight changed by the columns to its left in their order. Within a panel
// a warp has a row, a lane a column. To the right of the panel: c -= a·b, which also is most of the
// factorisation.

#include "base/kernels/numbers.cuh"
#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"

namespace gossamer::cuda {

inline constexpr int kObsPanel = 32, kObsWarps = 8, kObsThreads = 256;

/// w [rows, cols], cols ≤ 32. If m > 0, n of each m columns are kept and the mask is written;
/// groups lie within the panel. T: float or double.
template <class T>
struct ObsPanelArgs {
  T* w;
  std::int64_t ldw, rows;
  int cols;
  const T* u;
  std::int64_t ldu;
  std::uint8_t* mask;
  std::int64_t ldmask;
  int n, m;
  T* err;
  std::int64_t lderr;
};

/// Is a weight with score a before one with score b, of the same group? NaN comes last.
template <class T>
__device__ inline bool kept_before(T a, T b, bool earlier) {
  if (a != a || b != b) return (b != b && a == a) || (a != a && b != b && earlier);
  return a > b || (a == b && earlier);
}

template <class T>
__global__ void __launch_bounds__(kObsThreads)
    obs_panel(const __grid_constant__ ObsPanelArgs<T> a) {
  __shared__ T panel[kObsPanel][kObsPanel + 1];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const bool mine = lane < a.cols;
  for (int i = warp; i < a.cols; i += kObsWarps) panel[i][lane] = mine ? a.u[i * a.ldu + lane] : 0;
  __syncthreads();  // orders the writes of the panel before its reads
  const T own = mine ? panel[lane][lane] : 1;
  for (std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kObsWarps + warp; r < a.rows;
       r += static_cast<std::int64_t>(gridDim.x) * kObsWarps) {
    std::uint8_t* mask = a.mask + r * a.ldmask;
    T w = mine ? a.w[r * a.ldw + lane] : 0, err = 0;
    unsigned kept = a.m > 0 ? 0 : __ballot_sync(kAllLanes, mine && mask[lane] != 0);
#pragma unroll 1
    for (int i = 0; i < a.cols; ++i) {
      if (a.m > 0 && i % a.m == 0) {
        const T ratio = w / own, score = ratio * ratio;
        int before = 0;
#pragma unroll 1
        for (int j = i; j < i + a.m; ++j) {
          const T other = __shfl_sync(kAllLanes, score, j);
          before += kept_before(other, score, j < lane) ? 1 : 0;
        }
        kept |= __ballot_sync(kAllLanes, lane >= i && lane < i + a.m && before < a.n);
      }
      const T value = __shfl_sync(kAllLanes, w, i);
      if ((kept >> i & 1u) != 0) continue;
      const T diagonal = panel[i][i];
      // A factor that is none is not refused: the host would have to wait.
      const T e = diagonal > 0 && isfinite(diagonal) ? value / diagonal : static_cast<T>(NAN);
      if (lane == i) {
        err = e;
        w = 0;
      } else if (lane > i) {
        w -= e * panel[i][lane];
      }
    }
    if (!mine) continue;
    a.w[r * a.ldw + lane] = w;
    a.err[r * a.lderr + lane] = err;
    if (a.m > 0) mask[lane] = kept >> lane & 1u;
  }
}

/// The n of m > 32 columns of each row that are kept, a warp a row.
template <class T>
__global__ void __launch_bounds__(kObsThreads)
    obs_choose(const __grid_constant__ ObsPanelArgs<T> a) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kObsWarps + warp; r < a.rows;
       r += static_cast<std::int64_t>(gridDim.x) * kObsWarps) {
    const T* w = a.w + r * a.ldw;
    const auto score = [&](int j) {
      const T ratio = w[j] / a.u[j * a.ldu + j];
      return ratio * ratio;
    };
    for (int j = lane; j < a.m; j += 32) {
      const T own = score(j);
      int before = 0;
#pragma unroll 1
      for (int i = 0; i < a.m; ++i) before += kept_before(score(i), own, i < j) ? 1 : 0;
      a.mask[r * a.ldmask + j] = before < a.n ? 1 : 0;
    }
  }
}

/// scores[r·cols + j] = (w[r, j]/u[j, j])².
template <class T>
__global__ void __launch_bounds__(kObsThreads)
    obs_score(const T* w, std::int64_t ldw, const T* u, std::int64_t ldu, std::int64_t count,
              std::int64_t cols, T* scores) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kObsThreads + static_cast<int>(threadIdx.x);
  if (i >= count) return;
  const std::int64_t r = i / cols, j = i - r * cols;
  const T ratio = w[r * ldw + j] / u[j * ldu + j];
  scores[i] = ratio * ratio;
}

/// Rows of bytes into their places.
__global__ void __launch_bounds__(kObsThreads)
    obs_place(const std::uint8_t* from, std::int64_t count, std::int64_t cols, std::uint8_t* to,
              std::int64_t ldto) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kObsThreads + static_cast<int>(threadIdx.x);
  if (i >= count) return;
  const std::int64_t r = i / cols;
  to[r * ldto + (i - r * cols)] = from[i];
}

/// Copies between weights of a type of 16 bits and a working copy in float32.
__global__ void __launch_bounds__(kObsThreads)
    obs_convert(void* w, DType type, std::int64_t ldw, float* copy, std::int64_t count,
                std::int64_t cols, bool widens) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kObsThreads + static_cast<int>(threadIdx.x);
  if (i >= count) return;
  const std::int64_t r = i / cols, at = r * ldw + (i - r * cols);
  if (widens) {
    copy[i] = load_number(w, type, at);
  } else {
    store_number(w, type, at, copy[i]);
  }
}

/// c(r, j) -= Σ_d a(r, d)·b(d, j) over d < depth ≤ 32, in the order of d; b's rows or its columns
/// lie apart. Where `lower`, only tiles that reach the diagonal of c or lie below it.
template <class T>
struct ObsTailArgs {
  T* c;
  std::int64_t ldc, rows, cols;
  const T* a;
  std::int64_t lda;
  const T* b;
  std::int64_t b_row, b_col;
  int depth;
  bool lower;
};

inline constexpr int kTailSide = 64;

/// A tile of 64×64 a block; a thread has four rows and four columns, 16 apart.
template <class T>
__global__ void __launch_bounds__(kObsThreads) obs_tail(const __grid_constant__ ObsTailArgs<T> a) {
  __shared__ Pack<T, 4> left[kObsPanel][kTailSide / 4 + 1];
  __shared__ T right[kObsPanel][kTailSide];
  const int t = static_cast<int>(threadIdx.x), low = t % 16, high = t / 16;
  const std::int64_t col0 = static_cast<std::int64_t>(blockIdx.x) * kTailSide;
  const std::int64_t columns = a.cols - col0;
  const std::int64_t tiles = (a.rows + kTailSide - 1) / kTailSide;
  for (std::int64_t tile = blockIdx.y; tile < tiles; tile += gridDim.y) {
    const std::int64_t row0 = tile * kTailSide, rows = a.rows - row0;
    if (a.lower && col0 > row0) continue;
    for (int i = t; i < kObsPanel * kTailSide; i += kObsThreads) {
      const int d = i % kObsPanel, r = i / kObsPanel;
      const bool inside = d < a.depth && r < rows;
      left[d][r / 4].at[r % 4] = inside ? a.a[(row0 + r) * a.lda + d] : 0;
      const int j = i % kTailSide, e = i / kTailSide;
      const bool within = e < a.depth && j < columns;
      right[e][j] = within ? a.b[e * a.b_row + (col0 + j) * a.b_col] : 0;
    }
    T sum[4][4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int r = 4 * high + p, j = low + 16 * q;
        sum[p][q] = r < rows && j < columns ? a.c[(row0 + r) * a.ldc + col0 + j] : 0;
      }
    }
    __syncthreads();  // orders the writes of both operands before their reads
#pragma unroll 4
    for (int d = 0; d < kObsPanel; ++d) {
      const Pack<T, 4> x = left[d][high];
      T y[4];
#pragma unroll
      for (int q = 0; q < 4; ++q) y[q] = right[d][low + 16 * q];
#pragma unroll
      for (int p = 0; p < 4; ++p) {
#pragma unroll
        for (int q = 0; q < 4; ++q) sum[p][q] -= x.at[p] * y[q];
      }
    }
#pragma unroll
    for (int p = 0; p < 4; ++p) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int r = 4 * high + p, j = low + 16 * q;
        if (r < rows && j < columns) a.c[(row0 + r) * a.ldc + col0 + j] = sum[p][q];
      }
    }
    __syncthreads();  // orders these reads before the writes of the next tile's operands
  }
}

}  // namespace gossamer::cuda
