// Proximal steps: elementwise updates in place, sums over groups of weights, and the scaling of
// groups.

#include "prune/proximal/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Lanes are all ones where the mask is zero.
template <class T, int W>
GOSSAMER_INLINE auto dropped(const std::uint8_t* mask) {
  using Lane = decltype(Vec<T, W>{} < Vec<T, W>{});
  const auto bytes = load<W>(mask);
  return __builtin_convertvector(bytes, Lane) == Lane{};
}

template <class T, int W, class S>
GOSSAMER_INLINE void update_vector(const UpdateArgs& args, S* x, const S* other,
                                   const std::uint8_t* mask) {
  const Vec<T, W> a = broadcast<W>(static_cast<T>(args.a)), zero = {};
  const Vec<T, W> v = load_real<W>(x);
  switch (args.what) {
    case Update::soft: {
      // NaN is not within the threshold, so it stays NaN.
      const Vec<T, W> inside = v > zero ? v - a : v + a;
      store_real<W>(x, (v <= a) & (v >= -a) ? zero : inside);
      break;
    }
    case Update::shrink: {
      const Vec<T, W> shrunk = args.a == 0 ? zero : v * a;
      store_real<W>(x, dropped<T, W>(mask) ? shrunk : v);
      break;
    }
    case Update::decay:
      store_real<W>(x, dropped<T, W>(mask) ? v + a * load_real<W>(other) : v);
      break;
  }
}

template <class S>
void update_rows(const UpdateArgs& args) {
  using T = decltype(to_float(S{}));
  constexpr int W = kLanes<T>;
  for (std::int64_t r = 0; r < args.rows; ++r) {
    S* x = static_cast<S*>(args.x) + r * args.stride;
    const S* other =
        args.other == nullptr ? x : static_cast<const S*>(args.other) + r * args.other_stride;
    const std::uint8_t* mask = args.mask == nullptr ? nullptr : args.mask + r * args.mask_stride;
    std::int64_t j = 0;
    for (; j + W <= args.cols; j += W) {
      update_vector<T, W>(args, x + j, other + j, mask == nullptr ? nullptr : mask + j);
    }
    if (j == args.cols) continue;
    const auto left = static_cast<int>(args.cols - j);
    S last[W] = {}, last_other[W] = {};
    std::uint8_t last_mask[W] = {};
    for (int i = 0; i < left; ++i) {
      last[i] = x[j + i];
      last_other[i] = other[j + i];
      if (mask != nullptr) last_mask[i] = mask[j + i];
    }
    update_vector<T, W>(args, last, last_other, last_mask);
    for (int i = 0; i < left; ++i) x[j + i] = last[i];
  }
}

/// Σx² or Σ|x| of n elements, summed in float64.
template <class S>
double sum_of(const S* x, std::int64_t n, bool squares) {
  using T = decltype(to_float(S{}));
  constexpr int W = kLanes<double>;
  const auto part = [&](Vec<double, W> v) { return squares ? v * v : (v < 0 ? -v : v); };
  const auto read = [](const S* p) {
    if constexpr (sizeof(T) == 8) {
      return load<W>(p);
    } else {
      return __builtin_convertvector(load_real<W>(p), Vec<double, W>);
    }
  };
  Vec<double, W> sum = {}, more = {};
  std::int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    sum += part(read(x + i));
    more += part(read(x + i + W));
  }
  sum += more;
  double total = 0;
  for (int l = 0; l < W; ++l) total += sum[l];
  for (; i < n; ++i) {
    const auto v = static_cast<double>(to_float(x[i]));
    total += squares ? v * v : (v < 0 ? -v : v);
  }
  return total;
}

template <class S>
void scale_row(const GroupScaleArgs& args, S* x, const decltype(to_float(S{}))* factors) {
  using T = decltype(to_float(S{}));
  constexpr int W = kLanes<T>;
  const Vec<T> zero = {};
  const auto one = [](S& to, T factor) {
    assign(to, factor == 0 ? T{0} : static_cast<T>(to_float(to)) * factor);
  };
  if (args.group <= 1) {
    std::int64_t j = 0;
    for (; j + W <= args.cols; j += W) {
      const Vec<T> f = load<W>(factors + j);
      store_real<W>(x + j, f == zero ? zero : load_real<W>(x + j) * f);
    }
    for (; j < args.cols; ++j) one(x[j], factors[j]);
    return;
  }
  for (std::int64_t g = 0; g < args.cols / args.group; ++g) {
    S* from = x + g * args.group;
    const Vec<T> f = broadcast<W>(factors[g]);
    std::int64_t j = 0;
    for (; j + W <= args.group; j += W) {
      store_real<W>(from + j, f == zero ? zero : load_real<W>(from + j) * f);
    }
    for (; j < args.group; ++j) one(from[j], factors[g]);
  }
}

}  // namespace

void update(const UpdateArgs& args);
void update(const UpdateArgs& args) {
  with_float_type(args.type, [&](auto type) { update_rows<typename decltype(type)::type>(args); });
}

void group_sum(const GroupSumArgs& args);
void group_sum(const GroupSumArgs& args) {
  with_float_type(args.type, [&](auto type) {
    using S = typename decltype(type)::type;
    const std::int64_t groups = args.cols / args.group;
    for (std::int64_t r = 0; r < args.rows; ++r) {
      const S* x = static_cast<const S*>(args.x) + r * args.stride;
      for (std::int64_t g = 0; g < groups; ++g) {
        args.out[r * groups + g] = sum_of(x + g * args.group, args.group, args.squares);
      }
    }
  });
}

void group_scale(const GroupScaleArgs& args);
void group_scale(const GroupScaleArgs& args) {
  with_float_type(args.type, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = decltype(to_float(S{}));
    const std::int64_t groups = args.group == 0 ? 0 : args.cols / args.group;
    for (std::int64_t r = 0; r < args.rows; ++r) {
      scale_row<S>(args, static_cast<S*>(args.x) + r * args.stride,
                   static_cast<const T*>(args.factors) + r * groups);
    }
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
