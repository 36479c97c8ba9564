// Reduces blocks of a matrix to one number each: adds the rows of a row of blocks into one row of
// sums, then the columns of each block in a binary tree, all blocks together. Compiled without
// contraction, because a fused multiply-add would round differently from the baseline.

#include "prune/patterns/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

using prune::Reduce;

template <Reduce P, class V>
GOSSAMER_INLINE V combine(V a, V b) {
  if constexpr (P == Reduce::max) {
    // If one of them is NaN, so is the result.
    const V larger = b > a ? b : a;
    return b == b ? larger : b;
  } else {
    return a + b;
  }
}

template <Reduce P, int W, class T>
GOSSAMER_INLINE Vec<T, W> term(Vec<T, W> x, bool magnitude) {
  if (P == Reduce::l1 || magnitude) x = x < Vec<T, W>{} ? -x : x;
  if constexpr (P == Reduce::l2) x = x * x;
  return x;
}

/// sums[c] = the reduction of column c over the rows. Takes 16 rows at a time: the hardware
/// prefetches that many streams.
template <Reduce P, class T, class S>
void add_rows(const BlockPoolArgs& a, T* sums) {
  constexpr int W = kLanes<T>;
  constexpr std::int64_t kStreams = 16;
  const bool magnitude = a.magnitude;
  for (std::int64_t first = 0; first < a.rows; first += kStreams) {
    const S* score = static_cast<const S*>(a.score) + first * a.cols;
    const std::int64_t rows = min_i64(a.rows - first, kStreams);
    std::int64_t c = 0;
    const auto columns = [&](auto vectors) {
      constexpr int N = decltype(vectors)::value;
      for (; c + N * W <= a.cols; c += N * W) {
        Vec<T, W> sum[N];
        for (std::int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < N; ++v) {
            const auto x = term<P, W, T>(load_real<W>(score + r * a.cols + c + v * W), magnitude);
            if (r > 0) {
              sum[v] = combine<P>(sum[v], x);
            } else {
              sum[v] = first == 0 ? x : combine<P>(load<W>(sums + c + v * W), x);
            }
          }
        }
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) store<W>(sums + c + v * W, sum[v]);
      }
    };
    columns(Int<4>{});
    columns(Int<1>{});
    for (; c < a.cols; ++c) {
      S part[W] = {};
      for (std::int64_t r = 0; r < rows; ++r) {
        part[0] = score[r * a.cols + c];
        const auto x = term<P, W, T>(load_real<W>(part), magnitude);
        sums[c] = first + r == 0 ? x[0] : combine<P>(broadcast<W>(sums[c]), x)[0];
      }
    }
  }
}

template <Reduce P, int H, class V, int... I>
GOSSAMER_INLINE V halve(V a, V b, Lanes<I...>) {
  return combine<P>(__builtin_shufflevector(a, b, (I / H * 2 * H + I % H)...),
                    __builtin_shufflevector(a, b, (I / H * 2 * H + I % H + H)...));
}

/// Reduces blocks of `width` > H columns to H columns each, in place, and goes on down to one
/// column.
template <Reduce P, int H, class T>
void halve_narrow(T* sums, std::int64_t blocks, std::int64_t width) {
  constexpr int W = kLanes<T>;
  if (width > H) {
    const std::int64_t count = blocks * H;
    std::int64_t i = 0;
    for (; i + W <= count; i += W) {
      const auto low = load<W>(sums + 2 * i), high = load<W>(sums + 2 * i + W);
      store<W>(sums + i, halve<P, H>(low, high, typename MakeLanes<W>::type{}));
    }
    for (; i < count; ++i) {
      const T* from = sums + i / H * 2 * H + i % H;
      sums[i] = combine<P>(from[0], from[H]);
    }
  }
  if constexpr (H > 1) halve_narrow<P, H / 2>(sums, blocks, width);
}

/// sums[j] = the reduction of block j, which has `width` columns, a power of two, by a tree.
template <Reduce P, class T>
void add_columns(T* sums, std::int64_t blocks, std::int64_t width) {
  constexpr int W = kLanes<T>;
  for (std::int64_t h = width / 2; h >= W; h /= 2) {
    for (std::int64_t j = 0; j < blocks; ++j) {
      const T* from = sums + j * 2 * h;
      for (std::int64_t i = 0; i < h; i += W) {
        store<W>(sums + j * h + i, combine<P>(load<W>(from + i), load<W>(from + i + h)));
      }
    }
  }
  halve_narrow<P, W / 2>(sums, blocks, width);
}

template <Reduce P, class T, class S>
void pool_of(const BlockPoolArgs& a) {
  T* sums = reinterpret_cast<T*>(a.scratch);
  T* out = static_cast<T*>(a.out);
  add_rows<P, T, S>(a, sums);
  constexpr Reduce tree = P == Reduce::max ? P : Reduce::mean;
  constexpr T none = P == Reduce::max ? -static_cast<T>(__builtin_inf()) : T{0};
  std::int64_t power = 1;
  while (power < a.width) power *= 2;
  const std::int64_t blocks = (a.cols + a.width - 1) / a.width;
  if (power == a.width) {
    for (std::int64_t c = a.cols; c < blocks * power; ++c) sums[c] = none;
    add_columns<tree>(sums, blocks, power);
    for (std::int64_t j = 0; j < blocks; ++j) out[j] = sums[j];
  } else {
    T* padded = sums + a.cols;
    for (std::int64_t j = 0; j < blocks; ++j) {
      const std::int64_t first = j * a.width, width = min_i64(a.width, a.cols - first);
      for (std::int64_t i = 0; i < power; ++i) padded[i] = i < width ? sums[first + i] : none;
      add_columns<tree>(padded, 1, power);
      out[j] = padded[0];
    }
  }
  if constexpr (P == Reduce::mean) {
    const std::int64_t last = a.cols - (blocks - 1) * a.width;
    for (std::int64_t j = 0; j + 1 < blocks; ++j) out[j] /= static_cast<T>(a.width * a.rows);
    out[blocks - 1] /= static_cast<T>(last * a.rows);
  }
  if constexpr (P == Reduce::l2) {
    for (std::int64_t j = 0; j < blocks; ++j) {
      out[j] = sizeof(T) == 8 ? static_cast<T>(__builtin_sqrt(out[j]))
                              : static_cast<T>(__builtin_sqrtf(static_cast<float>(out[j])));
    }
  }
}

template <class T, class S>
void with_pool(const BlockPoolArgs& a) {
  switch (a.reduce) {
    case Reduce::mean:
      return pool_of<Reduce::mean, T, S>(a);
    case Reduce::max:
      return pool_of<Reduce::max, T, S>(a);
    case Reduce::l1:
      return pool_of<Reduce::l1, T, S>(a);
    case Reduce::l2:
      return pool_of<Reduce::l2, T, S>(a);
  }
}

}  // namespace

void block_pool(const BlockPoolArgs& a);
void block_pool(const BlockPoolArgs& a) {
  with_float_type(a.type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    if constexpr (sizeof(S) == 8) {
      with_pool<double, S>(a);
    } else {
      with_pool<float, S>(a);
    }
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
