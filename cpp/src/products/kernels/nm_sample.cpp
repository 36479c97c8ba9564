// Sampled products at the values of an N:M matrix: four values of a line at a time share the loads
// of the left row; the right rows that a part of a line meets stay in L1.

#include "products/args.h"
#include "simd/positions.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// The dot products of `left` with the four rows at right + offsets. D is the depth in vectors
/// where it is known at compile time, else 0.
template <class T, int D>
GOSSAMER_INLINE Vec<T, 4> dots(const T* left, const char* right, const std::uint32_t* offsets,
                               std::int64_t depth) {
  constexpr int W = kLanes<T>;
  const T* from[4];
  for (int e = 0; e < 4; ++e) from[e] = reinterpret_cast<const T*>(right + offsets[e]);
  Vec<T> sum[4] = {};
  if constexpr (D != 0) {
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) {
      const Vec<T> x = load<W>(left + d * W);
      for (int e = 0; e < 4; ++e) sum[e] += x * load<W>(from[e] + d * W);
    }
  } else {
    std::int64_t d = 0;
    for (; d + W <= depth; d += W) {
      const Vec<T> x = load<W>(left + d);
      for (int e = 0; e < 4; ++e) sum[e] += x * load<W>(from[e] + d);
    }
    if (const int rest = static_cast<int>(depth - d); rest != 0) {
      const Vec<T> x = load_first<W>(left + d, rest);
      for (int e = 0; e < 4; ++e) sum[e] += x * load_first<W>(from[e] + d, rest);
    }
  }
  return sum_lanes4<T, W>(sum);
}

template <class T, int D>
void lines(const NmSampleArgs& a) {
  const auto count = static_cast<int>(a.slot1 - a.slot0);
  const auto pitch = static_cast<std::uint32_t>(a.ldr * std::int64_t{sizeof(T)});
  std::uint32_t base[kMostSlots], offsets[kMostSlots + 4];
  for (int s = 0; s < count; ++s) base[s] = static_cast<std::uint32_t>(s / a.a.n * a.a.m) * pitch;
  const auto* right = reinterpret_cast<const char*>(static_cast<const T*>(a.right) +
                                                    a.slot0 / a.a.n * a.a.m * a.ldr);
  for (std::int64_t l = a.line0; l < a.line1; ++l) {
    const T* left = static_cast<const T*>(a.left) + l * a.ldl;
    T* out = static_cast<T*>(a.out) + (l - a.line0) * a.ldo + a.slot0;
    const std::uint8_t* indices = a.a.indices + l * a.a.index_bytes + a.slot0 * a.a.bits / 8;
    with_bits(a.a.bits, [&](auto bits) {
      read_offsets<decltype(bits)::value>(indices, count, base, pitch, offsets);
    });
    // The last is repeated, so that every value is summed in the same order.
    for (int s = count; s < count + 4; ++s) offsets[s] = offsets[count - 1];
    for (int s = 0; s < count; s += 4) {
      Vec<T, 4> total = dots<T, D>(left, right, offsets + s, a.depth);
      if (s + 4 <= count) {
        if (a.accumulate) total = total + load<4>(out + s);
        store<4>(out + s, total);
      } else {
        for (int e = 0; s + e < count; ++e) {
          out[s + e] = a.accumulate ? total[e] + out[s + e] : total[e];
        }
      }
    }
  }
}

template <class T>
void depths(const NmSampleArgs& a) {
  if (a.depth == 64) return lines<T, 64 / kLanes<T>>(a);
  if (a.depth == 128) return lines<T, 128 / kLanes<T>>(a);
  lines<T, 0>(a);
}

}  // namespace

void nm_sample(const NmSampleArgs& a);
void nm_sample(const NmSampleArgs& a) { a.f64 ? depths<double>(a) : depths<float>(a); }

}  // namespace gossamer::detail::GOSSAMER_LEVEL
