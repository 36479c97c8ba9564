// The channels that pass a threshold. Block by block: a byte a channel says whether a token passes,
// then the bytes become a list without a branch, and the values are gathered at its places.

#include "activation/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

template <class T>
GOSSAMER_INLINE T magnitude(T v) {
  return v < 0 ? -v : v;
}

template <class T, class S>
void select(const SelectChannelsArgs& args) {
  constexpr std::int64_t kBlock = 512;
  std::uint8_t passes[kBlock];
  const T threshold = static_cast<T>(args.threshold);
  std::int64_t found = 0;
  for (std::int64_t begin = 0; begin < args.count; begin += kBlock) {
    const std::int64_t n = min_i64(kBlock, args.count - begin);
    for (std::int64_t j = 0; j < n; ++j) passes[j] = 0;
    const T* thresholds =
        args.thresholds != nullptr ? static_cast<const T*>(args.thresholds) + begin : nullptr;
    // A NaN is not less than anything.
    const auto token = [&](auto&& value) {
      if (thresholds != nullptr) {
        for (std::int64_t j = 0; j < n; ++j) passes[j] |= !(magnitude(value(j)) < thresholds[j]);
      } else {
        for (std::int64_t j = 0; j < n; ++j) passes[j] |= !(magnitude(value(j)) < threshold);
      }
    };
    for (std::int64_t t = 0; t < args.tokens; ++t) {
      const S* x = static_cast<const S*>(args.x) + t * args.stride + begin;
      if (args.last != nullptr) {
        const T* last = static_cast<const T*>(args.last) + t * args.count + begin;
        token([&](std::int64_t j) { return to_float(x[j]) - last[j]; });
      } else {
        token([&](std::int64_t j) { return to_float(x[j]); });
      }
    }
    for (std::int64_t j = 0; j < n; ++j) {
      args.channels[found] = static_cast<std::int32_t>(begin + j);
      found += passes[j];
    }
  }
  *args.found = found;
}

template <class T, class S>
void gather(const GatherChannelsArgs& args) {
  for (std::int64_t t = 0; t < args.tokens; ++t) {
    const S* x = static_cast<const S*>(args.x) + t * args.stride;
    T* values = static_cast<T*>(args.values) + t * args.found;
    if (args.last == nullptr) {
      for (std::int64_t i = 0; i < args.found; ++i) values[i] = to_float(x[args.channels[i]]);
      continue;
    }
    T* last = static_cast<T*>(args.last) + t * args.count;
    for (std::int64_t i = 0; i < args.found; ++i) {
      const std::int32_t j = args.channels[i];
      const T now = to_float(x[j]);
      values[i] = now - last[j];
      last[j] = now;
    }
  }
}

template <class F>
GOSSAMER_INLINE void with_real(DType type, F&& f) {
  with_float_type(type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    if constexpr (sizeof(S) == 8) {
      f(Type<double>{}, stored);
    } else {
      f(Type<float>{}, stored);
    }
  });
}

}  // namespace

void select_channels(const SelectChannelsArgs& a);
void select_channels(const SelectChannelsArgs& a) {
  with_real(a.type, [&](auto real, auto stored) {
    select<typename decltype(real)::type, typename decltype(stored)::type>(a);
  });
}

void gather_channels(const GatherChannelsArgs& a);
void gather_channels(const GatherChannelsArgs& a) {
  with_real(a.type, [&](auto real, auto stored) {
    gather<typename decltype(real)::type, typename decltype(stored)::type>(a);
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
