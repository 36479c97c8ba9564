// Softmax over the stored entries of each row, and its gradient: three passes over a row, which
// stays in L1. 16-bit values are exponentiated twice rather than kept.

#include "attention/csr/args.h"
#include "simd/simd.h"
#include "simd/softmax.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;

template <class T, class S>
GOSSAMER_INLINE T largest(const S* x, std::int64_t n) {
  constexpr int W = kLanes<T>;
  Vec<T> most = broadcast<W>(kMinusInfinity<T>);
  std::int64_t p = 0;
  for (; p + W <= n; p += W) most = larger_lanes<T, W>(most, load_real<W>(x + p));
  if (const int left = static_cast<int>(n - p); left > 0) {
    most = larger_lanes<T, W>(most, load_filled<W, T>(x + p, left, kMinusInfinity<T>));
  }
  return max_lanes<T, W>(most);
}

template <class T, class S>
GOSSAMER_INLINE void softmax(const S* x, std::int64_t n, S* out) {
  constexpr int W = kLanes<T>;
  const T most = largest<T>(x, n);
  if (most == kMinusInfinity<T>) {
    for (std::int64_t p = 0; p < n; ++p) assign(out[p], 0);
    return;
  }
  Vec<T> sums = {};
  std::int64_t p = 0;
  for (; p + W <= n; p += W) {
    const Vec<T> power = exp_weights<W>(load_real<W>(x + p) - most);
    if constexpr (kSame<S, T>) store<W>(out + p, power);
    sums += power;
  }
  const int left = static_cast<int>(n - p);
  Vec<T> last = {};
  if (left > 0) {
    last = exp_weights<W>(load_filled<W, T>(x + p, left, kMinusInfinity<T>) - most);
    sums += last;
  }
  const T inverse = T{1} / sum_lanes<T, W>(sums);
  for (p = 0; p + W <= n; p += W) {
    if constexpr (kSame<S, T>) {
      store<W>(out + p, load<W>(out + p) * inverse);
    } else {
      store_real<W>(out + p, exp_weights<W>(load_real<W>(x + p) - most) * inverse);
    }
  }
  if (left > 0) store_first<W>(out + p, last * inverse, left);
}

template <class T, class S>
GOSSAMER_INLINE void gradient(const S* y, const S* g, std::int64_t n, S* out) {
  constexpr int W = kLanes<T>;
  Vec<T> sums = {};
  std::int64_t p = 0;
  for (; p + W <= n; p += W) sums += load_real<W>(y + p) * load_real<W>(g + p);
  const int left = static_cast<int>(n - p);
  Vec<T> last_y = {}, last_g = {};
  if (left > 0) {
    last_y = load_first<W>(y + p, left);
    last_g = load_first<W>(g + p, left);
    sums += last_y * last_g;
  }
  const T mean = sum_lanes<T, W>(sums);
  for (p = 0; p + W <= n; p += W) {
    store_real<W>(out + p, load_real<W>(y + p) * (load_real<W>(g + p) - mean));
  }
  if (left > 0) store_first<W>(out + p, last_y * (last_g - mean), left);
}

/// body(Type<S>, first entry, number of entries) for each row.
template <class Args, class F>
GOSSAMER_INLINE void for_rows(const Args& args, F&& body) {
  with_float_type(args.type, [&](auto type) {
    const auto rows = [&](const auto* indptr) {
      for (std::int64_t i = args.row0; i < args.row1; ++i) {
        body(type, static_cast<std::int64_t>(indptr[i]),
             static_cast<std::int64_t>(indptr[i + 1] - indptr[i]));
      }
    };
    args.wide ? rows(static_cast<const std::int64_t*>(args.indptr))
              : rows(static_cast<const std::int32_t*>(args.indptr));
  });
}

}  // namespace

void csr_softmax(const CsrSoftmaxArgs& args);
void csr_softmax(const CsrSoftmaxArgs& args) {
  for_rows(args, [&](auto type, std::int64_t begin, std::int64_t n) {
    using S = typename decltype(type)::type;
    using T = decltype(to_float(S{}));
    softmax<T>(static_cast<const S*>(args.x) + begin, n, static_cast<S*>(args.out) + begin);
  });
}

void csr_softmax_backward(const CsrSoftmaxBackwardArgs& args);
void csr_softmax_backward(const CsrSoftmaxBackwardArgs& args) {
  for_rows(args, [&](auto type, std::int64_t begin, std::int64_t n) {
    using S = typename decltype(type)::type;
    using T = decltype(to_float(S{}));
    gradient<T>(static_cast<const S*>(args.y) + begin, static_cast<const S*>(args.g) + begin, n,
                static_cast<S*>(args.out) + begin);
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
