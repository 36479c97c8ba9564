#pragma once

// Products of tiles on tensor cores, for attention: S = Q·Kᵀ and O += P·V, where 16 rows of each
// belong to a warp. float16 and bfloat16 by m16n8k16; float32 by m16n8k8 of tf32 three times, so
// that the 21 upper bits of both factors count: as near as float32's own products.

#include "base/kernels/numbers.cuh"
#include "base/kernels/pack.cuh"
#include "base/ptx.cuh"

namespace gossamer::cuda {

/// Rows of queries and keys of a tile, for elements of type T.
template <class T>
struct AttentionTile {
  static constexpr bool kWide = sizeof(T) == 4;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kRows = 16 * kWarps;
  static constexpr int kKeys = kWide ? 32 : 64;
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  /// Rows in shared memory are this many elements longer than the depth, which is padded to 16:
  /// then neither ldmatrix nor the reads of single floats meet a bank twice.
  static constexpr int kPad = kWide ? 4 : 8;

  static __host__ __device__ int padded(std::int64_t depth) {
    return static_cast<int>((depth + 15) / 16 * 16);
  }
  static __host__ __device__ int pitch(std::int64_t depth) { return padded(depth) + kPad; }
};

/// x as the sum of two tf32 numbers; the second is 0 where x is not finite.
__device__ __forceinline__ void split_tf32(float x, std::uint32_t& upper, std::uint32_t& lower) {
  upper = to_tf32(x);
  const float rest = x - __uint_as_float(upper);
  lower = rest == rest ? to_tf32(rest) : 0u;
}

template <int N>
__device__ __forceinline__ void split_tf32(const float (&x)[N], std::uint32_t (&upper)[N],
                                           std::uint32_t (&lower)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) split_tf32(x[i], upper[i], lower[i]);
}

/// d += A·B in nearly float32.
__device__ __forceinline__ void multiply_floats(float (&d)[4], const std::uint32_t (&a)[4],
                                                const std::uint32_t (&a_rest)[4],
                                                const float (&b)[2]) {
  std::uint32_t right[2], rest[2];
  split_tf32(b, right, rest);
  mma_m16n8k8_tf32(d, a_rest, right);
  mma_m16n8k8_tf32(d, a, rest);
  mma_m16n8k8_tf32(d, a, right);
}

__device__ __forceinline__ std::uint32_t pair_of(__half, float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  std::uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}
__device__ __forceinline__ std::uint32_t pair_of(__nv_bfloat16, float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  std::uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

/// scores += Q·Kᵀ: q [16, pitch] are the warp's queries, k [kKeys, pitch] all keys of the tile.
template <class T, int Keys>
__device__ __forceinline__ void multiply_keys(float (&scores)[Keys / 8][4], const T* q, const T* k,
                                              int depth, int pitch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (sizeof(T) == 4) {
    const int g = lane / 4, t = lane % 4;
    for (int d = 0; d < depth; d += 8) {
      const T* at = q + g * pitch + d + t;
      const float rows[4] = {at[0], at[8 * pitch], at[4], at[8 * pitch + 4]};
      std::uint32_t left[4], rest[4];
      split_tf32(rows, left, rest);
#pragma unroll
      for (int n = 0; n < Keys / 8; ++n) {
        const T* key = k + (8 * n + g) * pitch + d + t;
        multiply_floats(scores[n], left, rest, {key[0], key[4]});
      }
    }
  } else {
    // Lane 8i + j gives the address of row j of matrix i. Of Q, matrix 1 is eight rows below matrix
    // 0, matrix 2 eight columns to the right; of K the other way round.
    const int j = lane % 8, low = lane / 8 % 2 * 8, high = lane / 16 * 8;
    const T* left_at = q + (low + j) * pitch + high;
    const T* right_at = k + (high + j) * pitch + low;
    for (int d = 0; d < depth; d += 16) {
      std::uint32_t left[4];
      ldmatrix_x4(left, left_at + d);
#pragma unroll
      for (int n = 0; n < Keys / 16; ++n) {
        std::uint32_t right[4];
        ldmatrix_x4(right, right_at + 16 * n * pitch + d);
        const std::uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
        mma_m16n8k16<T>(scores[2 * n], left, first);
        mma_m16n8k16<T>(scores[2 * n + 1], left, second);
      }
    }
  }
}

/// sums += P·V: weights are the warp's 16 rows of P, v [kKeys, pitch] all values of the tile; the
/// first `width` columns, a multiple of 16.
template <class T, int Keys, int Columns>
__device__ __forceinline__ void multiply_values(float (&sums)[Columns / 8][4],
                                                const float (&weights)[Keys / 8][4], const T* v,
                                                int width, int pitch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (sizeof(T) == 4) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n) {
      // Columns of P and rows of V are taken in an order in which this lane has its part of P.
      const float rows[4] = {weights[n][0], weights[n][2], weights[n][1], weights[n][3]};
      std::uint32_t left[4], rest[4];
      split_tf32(rows, left, rest);
      const T* at = v + (8 * n + 2 * t) * pitch + g;
#pragma unroll
      for (int c = 0; c < Columns / 8; ++c) {
        if (8 * c >= width) break;
        multiply_floats(sums[c], left, rest, {at[8 * c], at[pitch + 8 * c]});
      }
    }
  } else {
    const int j = lane % 8, low = lane / 8 % 2 * 8, high = lane / 16 * 8;
    const T* right_at = v + (low + j) * pitch + high;
#pragma unroll
    for (int n = 0; n < Keys / 16; ++n) {
      const float (&first)[4] = weights[2 * n];
      const float (&second)[4] = weights[2 * n + 1];
      const std::uint32_t left[4] = {
          pair_of(T{}, first[0], first[1]), pair_of(T{}, first[2], first[3]),
          pair_of(T{}, second[0], second[1]), pair_of(T{}, second[2], second[3])};
#pragma unroll
      for (int c = 0; c < Columns / 16; ++c) {
        if (16 * c >= width) break;
        std::uint32_t right[4];
        ldmatrix_x4_trans(right, right_at + 16 * n * pitch + 16 * c);
        const std::uint32_t one[2] = {right[0], right[1]}, two[2] = {right[2], right[3]};
        mma_m16n8k16<T>(sums[2 * c], left, one);
        mma_m16n8k16<T>(sums[2 * c + 1], left, two);
      }
    }
  }
}

/// Copies rows [0, rows) of `depth` elements, padded with zeros to `width` columns, to rows `pitch`
/// apart; row r begins at row_at(r), and is zeros where that is null. With `vectors`, 16 bytes at a
/// time and asynchronously. Done by Threads threads, of which this is number `thread`; 2^log_across
/// of them share a row.
template <int Threads, class T, class RowAt>
__device__ __forceinline__ void copy_tile(T* shared, int rows, int depth, int width, int pitch,
                                          int log_across, bool vectors, const T* anywhere,
                                          const RowAt& row_at, int thread) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const int across = 1 << log_across;
  const int first = thread & (across - 1);
  for (int r = thread >> log_across; r < rows; r += Threads >> log_across) {
    const T* from = row_at(r);
    T* to = shared + r * pitch;
    if (vectors) {
      for (int d = first * kVector; d < width; d += across * kVector) {
        const bool valid = from != nullptr && d < depth;
        // An invalid copy reads nothing, but it needs a valid address.
        cp_async<16>(to + d, valid ? from + d : anywhere, valid);
      }
    } else {
      for (int d = first; d < width; d += across) {
        to[d] = from != nullptr && d < depth ? from[d] : narrow<T>(0.0f);
      }
    }
  }
}

inline constexpr float kLog2e = 1.44269504088896341f;

/// A step of the online softmax, for the rows of a warp's accumulators: scores become their powers
/// of e from the largest one so far on. `top`: the largest of a lane's new scores. `most` and
/// `total` of the rows so far, and by what their sums must be multiplied.
template <int N>
__device__ __forceinline__ void softmax_step(float (&scores)[N][4], float (&top)[2],
                                             float (&most)[2], float (&total)[2],
                                             float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 1));
    top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], 2));
    top[i] = fmaxf(top[i], most[i]);
    factor[i] = most[i] == -INFINITY ? 0.0f : exp2f((most[i] - top[i]) * kLog2e);
    most[i] = top[i];
    total[i] *= factor[i];
    if (top[i] == -INFINITY) top[i] = 0.0f;  // nothing was seen: e^(-∞ - 0) is 0
  }
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      scores[n][e] = exp2f((scores[n][e] - top[e / 2]) * kLog2e);
      total[e / 2] += scores[n][e];
    }
  }
}

}  // namespace gossamer::cuda
