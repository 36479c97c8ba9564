// y = A · x, row by row: values times the elements of x that they are for, in four vectors of
// partial sums.

#include "products/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr std::int64_t kAhead = 512;  // entries that are prefetched

// Elements of x are loaded four floats or two doubles at a time, by single loads and inserts, which
// keep the load ports busy. A gather instruction takes twice as long on Zen 4 and is no faster on
// Ice Lake.
template <class T>
constexpr int kPick = 16 / static_cast<int>(sizeof(T));

template <class I>
GOSSAMER_INLINE std::uint64_t position(I index) {
  if constexpr (sizeof(I) == 4) return static_cast<std::uint32_t>(index);
  return static_cast<std::uint64_t>(index);
}

template <class T, class I>
GOSSAMER_INLINE Vec<T, kPick<T>> pick(const T* x, const I* indices) {
  if constexpr (sizeof(T) == 4 && sizeof(I) == 4) {
    std::uint64_t a, b;
    __builtin_memcpy(&a, indices, 8);
    __builtin_memcpy(&b, indices + 2, 8);
    return Vec<T, 4>{x[a & 0xffffffffu], x[a >> 32], x[b & 0xffffffffu], x[b >> 32]};
  } else if constexpr (sizeof(T) == 4 && sizeof(I) == 2) {
    std::uint64_t a;
    __builtin_memcpy(&a, indices, 8);
    return Vec<T, 4>{x[a & 0xffffu], x[(a >> 16) & 0xffffu], x[(a >> 32) & 0xffffu], x[a >> 48]};
  } else if constexpr (sizeof(T) == 4) {
    return Vec<T, 4>{x[position(indices[0])], x[position(indices[1])], x[position(indices[2])],
                     x[position(indices[3])]};
  } else {
    return Vec<T, 2>{x[position(indices[0])], x[position(indices[1])]};
  }
}

template <class T, class P, class I, class S>
void rows(const SpmvArgs& a) {
  constexpr int W = kPick<T>;
  constexpr int U = 4;
  const P* indptr = static_cast<const P*>(a.indptr);
  const I* indices = static_cast<const I*>(a.indices);
  const S* values = static_cast<const S*>(a.values);
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  for (std::int64_t i = a.row0; i < a.row1; ++i) {
    std::int64_t p = indptr[i];
    const std::int64_t end = indptr[i + 1];
    Vec<T, W> sum[U] = {};
    for (; p + U * W <= end; p += U * W) {
      __builtin_prefetch(indices + p + kAhead);
      __builtin_prefetch(values + p + kAhead);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) {
        sum[u] += load_real<W>(values + p + u * W) * pick(x, indices + p + u * W);
      }
    }
    for (; p + W <= end; p += W) sum[0] += load_real<W>(values + p) * pick(x, indices + p);
    Vec<T, W> total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    T tail = 0;
    for (; p < end; ++p) tail += to_float(values[p]) * x[position(indices[p])];
    T lanes = total[0] + total[1];
    if constexpr (W == 4) lanes += total[2] + total[3];
    y[i] = lanes + tail;
  }
}

}  // namespace

void spmv(const SpmvArgs& a);
void spmv(const SpmvArgs& a) {
  with_index_kind(a.kind, [&](auto pointer, auto index) {
    using P = typename decltype(pointer)::type;
    using I = typename decltype(index)::type;
    with_float_type(a.value_type, [&](auto stored) {
      using S = typename decltype(stored)::type;
      if constexpr (sizeof(S) == 8) {
        rows<double, P, I, S>(a);
      } else {
        rows<float, P, I, S>(a);
      }
    });
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
