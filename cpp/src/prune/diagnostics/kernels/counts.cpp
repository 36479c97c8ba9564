// Counts of what is not zero, and means of arrays: bound by memory. Plain loops that the compiler
// turns into vectors.

#include "prune/diagnostics/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// Elements whose bits, but for the sign of floating types, are not zero.
template <class U>
std::int64_t nonzeros(const U* x, std::int64_t n, U bits) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < n; i += 1 << 16) {
    const std::int64_t end = min_i64(i + (1 << 16), n);
    std::uint32_t count = 0;
    for (std::int64_t j = i; j < end; ++j) count += (x[j] & bits) != 0 ? 1u : 0u;
    total += count;
  }
  return total;
}

template <class U>
void count_rows(const CountNonzeroArgs& args, U bits) {
  for (std::int64_t r = 0; r < args.rows; ++r) {
    const U* x = static_cast<const U*>(args.x) + r * args.stride;
    if (args.run == 1) {
      for (std::int64_t j = 0; j < args.cols; ++j) args.counts[j] += (x[j] & bits) != 0 ? 1 : 0;
      continue;
    }
    for (std::int64_t j = 0, b = 0; j < args.cols; j += args.run, ++b) {
      args.counts[b] += nonzeros<U>(x + j, min_i64(args.run, args.cols - j), bits);
    }
  }
}

template <class S>
void mean_of(const MeanArgs& args) {
  using T = decltype(to_float(S{}));
  constexpr int W = kLanes<T>;
  S* out = static_cast<S*>(args.out);
  const T count = static_cast<T>(args.count);
  std::int64_t i = args.begin;
  for (; i + W <= args.end; i += W) {
    Vec<T> sum = {};
    for (std::int64_t k = 0; k < args.count; ++k) {
      sum += load_real<W>(static_cast<const S*>(args.inputs[k]) + i);
    }
    store_real<W>(out + i, sum / count);
  }
  for (; i < args.end; ++i) {
    T sum = 0;
    for (std::int64_t k = 0; k < args.count; ++k) {
      sum += to_float(static_cast<const S*>(args.inputs[k])[i]);
    }
    assign(out[i], sum / count);
  }
}

}  // namespace

void count_nonzero(const CountNonzeroArgs& args);
void count_nonzero(const CountNonzeroArgs& args) {
  switch (args.type) {
    case DType::f64:
      return count_rows<std::uint64_t>(args, ~std::uint64_t{0} >> 1);
    case DType::f32:
      return count_rows<std::uint32_t>(args, ~std::uint32_t{0} >> 1);
    case DType::f16:
    case DType::bf16:
      return count_rows<std::uint16_t>(args, 0x7fff);
    default:
      return count_rows<std::uint8_t>(args, 0xff);
  }
}

void cover(const CoverArgs& args);
void cover(const CoverArgs& args) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < args.size; i += 1 << 16) {
    const std::int64_t end = min_i64(i + (1 << 16), args.size);
    std::uint32_t count = 0;
    for (std::int64_t j = i; j < end; ++j) {
      const bool fired = (args.fired[j] | args.mask[j]) != 0;
      args.fired[j] = fired ? 1 : 0;
      count += fired ? 1u : 0u;
    }
    total += count;
  }
  *args.count = total;
}

void mean(const MeanArgs& args);
void mean(const MeanArgs& args) {
  with_float_type(args.type, [&](auto type) { mean_of<typename decltype(type)::type>(args); });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
