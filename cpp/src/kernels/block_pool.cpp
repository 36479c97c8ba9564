// Blocks: rows are added to a row of sums, whose columns are then added in a tree. Compiled without
// contraction: a fused multiply-add would round otherwise than the baseline does.

#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

template <Pool P, class V>
GOSSAMER_INLINE V combine(V a, V b) {
  if constexpr (P == Pool::max) {
    // A NaN stays.
    const V larger = b > a ? b : a;
    return b == b ? larger : b;
  } else {
    return a + b;
  }
}

template <Pool P, int W, class T>
GOSSAMER_INLINE Vec<T, W> term(Vec<T, W> x, bool magnitude) {
  if (P == Pool::l1 || magnitude) x = x < Vec<T, W>{} ? -x : x;
  if constexpr (P == Pool::l2) x = x * x;
  return x;
}

template <Pool P, class T, class S>
void pool_of(const BlockPoolArgs& a) {
  constexpr int W = kLanes<T>;
  const S* score = static_cast<const S*>(a.score);
  T* sums = reinterpret_cast<T*>(a.scratch);
  T* tree = sums + a.cols;
  T* out = static_cast<T*>(a.out);
  std::int64_t c = 0;
  const auto columns = [&](auto width) {
    constexpr int V = decltype(width)::value;
    for (; c + V <= a.cols; c += V) {
      Vec<T, V> sum = term<P, V, T>(load_real<V>(score + c), a.magnitude);
      for (std::int64_t r = 1; r < a.rows; ++r) {
        sum = combine<P>(sum, term<P, V, T>(load_real<V>(score + r * a.cols + c), a.magnitude));
      }
      store<V>(sums + c, sum);
    }
  };
  columns(Int<W>{});
  for (; c < a.cols; ++c) {
    S part[W] = {};
    Vec<T, W> sum{};
    for (std::int64_t r = 0; r < a.rows; ++r) {
      part[0] = score[r * a.cols + c];
      const auto x = term<P, W, T>(load_real<W>(part), a.magnitude);
      sum = r == 0 ? x : combine<P>(sum, x);
    }
    sums[c] = sum[0];
  }
  std::int64_t power = 1;
  while (power < a.width) power *= 2;
  const std::int64_t blocks = (a.cols + a.width - 1) / a.width;
  for (std::int64_t j = 0; j < blocks; ++j) {
    const T* from = sums + j * a.width;
    const std::int64_t width = min_i64(a.width, a.cols - j * a.width);
    T result = from[0];
    if (power > 1) {
      for (std::int64_t i = 0; i < width; ++i) tree[i] = from[i];
      for (std::int64_t i = width; i < power; ++i) {
        tree[i] = P == Pool::max ? -static_cast<T>(__builtin_inf()) : T{0};
      }
      for (std::int64_t h = power / 2; h > 0; h /= 2) {
        std::int64_t i = 0;
        for (; i + W <= h; i += W) {
          store<W>(tree + i, combine<P>(load<W>(tree + i), load<W>(tree + i + h)));
        }
        for (; i < h; ++i) tree[i] = combine<P>(tree[i], tree[i + h]);
      }
      result = tree[0];
    }
    if constexpr (P == Pool::mean) result /= static_cast<T>(width * a.rows);
    if constexpr (P == Pool::l2) {
      result = sizeof(T) == 8 ? static_cast<T>(__builtin_sqrt(result))
                              : static_cast<T>(__builtin_sqrtf(static_cast<float>(result)));
    }
    out[j] = result;
  }
}

template <class T, class S>
void with_pool(const BlockPoolArgs& a) {
  switch (a.pool) {
    case Pool::mean:
      return pool_of<Pool::mean, T, S>(a);
    case Pool::max:
      return pool_of<Pool::max, T, S>(a);
    case Pool::l1:
      return pool_of<Pool::l1, T, S>(a);
    case Pool::l2:
      return pool_of<Pool::l2, T, S>(a);
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

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
