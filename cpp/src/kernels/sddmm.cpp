// Sampled A · Bᵀ: for each row, four entries at a time share the loads of A's row; their four
// vectors of partial sums are added across lanes together.

#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

/// Lane l of the result is the sum over all lanes of v[l].
template <class T, int W>
GOSSAMER_INLINE Vec<T, 4> sum_lanes4(Vec<T, W> (&v)[4]) {
  if constexpr (W >= 4) {
    using L = typename MakeLanes<W>::type;
    exchange_halves<1>(v[0], v[1], L{});
    exchange_halves<1>(v[2], v[3], L{});
    Vec<T, W> low = v[0] + v[1], high = v[2] + v[3];
    exchange_halves<2>(low, high, L{});
    T part[W];
    store<W>(part, low + high);
    Vec<T, 4> sum = load<4>(part);
    if constexpr (W == 8) sum = sum + load<4>(part + 4);
    if constexpr (W == 16) {
      sum = (sum + load<4>(part + 8)) + (load<4>(part + 4) + load<4>(part + 12));
    }
    return sum;
  } else {
    return Vec<T, 4>{v[0][0] + v[0][1], v[1][0] + v[1][1], v[2][0] + v[2][1], v[3][0] + v[3][1]};
  }
}

template <int W, class T>
GOSSAMER_INLINE Vec<T, W> load_part(const T* p, int n) {
#if defined(GOSSAMER_AVX512)
  if constexpr (sizeof(T) == 4) {
    return bit_cast<Vec<T, W>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << n) - 1), p));
  } else {
    return bit_cast<Vec<T, W>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1 << n) - 1), p));
  }
#else
  T part[W] = {};
  for (int i = 0; i < n; ++i) part[i] = p[i];
  return load<W>(part);
#endif
}

/// D vectors of depth where known at compile time, else 0.
template <class T, class I, int D>
GOSSAMER_INLINE void row(const I* indices, std::int64_t n, const T* a, const SddmmRowsArgs& args,
                         T* out) {
  constexpr int W = kLanes<T>;
  const T* b = static_cast<const T*>(args.b);
  const std::int64_t whole = D != 0 ? D * W : args.depth / W * W;
  const int part = D != 0 ? 0 : static_cast<int>(args.depth - whole);
  for (std::int64_t p = 0; p < n; p += 4) {
    // A last group of fewer repeats its last entry: every entry is summed in the same order.
    const int left = static_cast<int>(min_i64(4, n - p));
    const T* from[4];
    for (int e = 0; e < 4; ++e) {
      from[e] = b + static_cast<std::int64_t>(indices[p + (e < left ? e : left - 1)]) * args.ldb;
    }
    Vec<T> sum[4] = {};
    if constexpr (D != 0) {
#pragma GCC unroll 16
      for (int d = 0; d < D; ++d) {
        const Vec<T> x = load<W>(a + d * W);
        for (int e = 0; e < 4; ++e) sum[e] += x * load<W>(from[e] + d * W);
      }
    } else {
      for (std::int64_t d = 0; d < whole; d += W) {
        const Vec<T> x = load<W>(a + d);
        for (int e = 0; e < 4; ++e) sum[e] += x * load<W>(from[e] + d);
      }
    }
    if (part != 0) {
      const Vec<T> x = load_part<W>(a + whole, part);
      for (int e = 0; e < 4; ++e) sum[e] += x * load_part<W>(from[e] + whole, part);
    }
    const Vec<T, 4> total = sum_lanes4<T, W>(sum);
    if (left == 4) {
      store<4>(out + p, total);
    } else {
      for (int e = 0; e < left; ++e) out[p + e] = total[e];
    }
  }
}

template <class T, class P, class I>
void rows(const SddmmRowsArgs& args) {
  const P* begin = static_cast<const P*>(args.begin);
  const P* end = static_cast<const P*>(args.end);
  const I* indices = static_cast<const I*>(args.indices);
  T* out = static_cast<T*>(args.out);
  const auto all = [&](auto depth) {
    for (std::int64_t i = args.row0; i < args.row1; ++i) {
      const T* a = static_cast<const T*>(args.a) + i * args.lda;
      row<T, I, decltype(depth)::value>(indices + begin[i], end[i] - begin[i], a, args,
                                        out + begin[i]);
    }
  };
  if (args.depth == 64) return all(Int<64 / kLanes<T>>{});
  if (args.depth == 128) return all(Int<128 / kLanes<T>>{});
  all(Int<0>{});
}

}  // namespace

void sddmm_rows(const SddmmRowsArgs& a);
void sddmm_rows(const SddmmRowsArgs& a) {
  with_index_kind(a.kind, [&](auto pointer, auto index) {
    using P = typename decltype(pointer)::type;
    using I = typename decltype(index)::type;
    if (a.f64) {
      rows<double, P, I>(a);
    } else {
      rows<float, P, I>(a);
    }
  });
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
