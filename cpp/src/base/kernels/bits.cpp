// Masks as bits, 64 to a word, the first in the lowest bit: made from bytes, expanded to bytes,
// listed as positions, and used to write an array where they are set.

#include "base/args.h"
#include "simd/keys.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

template <class F>
GOSSAMER_INLINE void for_bits(std::uint64_t set, F&& f) {
  for (; set != 0; set &= set - 1) f(__builtin_ctzll(set));
}

template <class T>
void write(const WriteBitsArgs& a) {
  T* to = static_cast<T*>(a.data);
  const T* from = static_cast<const T*>(a.source);
  const T value = static_cast<T>(a.value);
  const std::int64_t words = (a.count + kBlock - 1) / kBlock;
  for (std::int64_t w = 0; w < words; ++w) {
    const std::uint64_t set = a.bits[w];
    T* out = to + w * kBlock;
    if (from != nullptr) {
      for_bits(set, [&](int i) { out[i] = from[w * kBlock + i]; });
      continue;
    }
#if defined(GOSSAMER_AVX512)
    // Lanes that are not set are not touched, also behind the end.
    constexpr int W = kLanes<T>;
    const __m512i x = [&] {
      if constexpr (sizeof(T) == 2) return _mm512_set1_epi16(static_cast<short>(value));
      if constexpr (sizeof(T) == 4) return _mm512_set1_epi32(static_cast<int>(value));
      if constexpr (sizeof(T) == 8) return _mm512_set1_epi64(static_cast<long long>(value));
    }();
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; i += W) {
      const std::uint64_t part = set >> i;
      if constexpr (sizeof(T) == 2) {
        _mm512_mask_storeu_epi16(out + i, static_cast<__mmask32>(part), x);
      } else if constexpr (sizeof(T) == 4) {
        _mm512_mask_storeu_epi32(out + i, static_cast<__mmask16>(part), x);
      } else {
        _mm512_mask_storeu_epi64(out + i, static_cast<__mmask8>(part), x);
      }
    }
#else
    for_bits(set, [&](int i) { out[i] = value; });
#endif
  }
}

}  // namespace

void pack_bits(const PackBitsArgs& a);
void pack_bits(const PackBitsArgs& a) {
  std::int64_t ones = 0, i = 0;
  for (; i + kBlock <= a.count; i += kBlock) {
    const std::uint64_t word = nonzero_bytes(a.bytes + i);
    a.bits[i / kBlock] = word;
    ones += bits_in(word);
  }
  if (i < a.count) {
    alignas(64) std::uint8_t part[kBlock] = {};
    __builtin_memcpy(part, a.bytes + i, static_cast<std::size_t>(a.count - i));
    a.bits[i / kBlock] = nonzero_bytes(part);
    ones += bits_in(a.bits[i / kBlock]);
  }
  *a.ones = ones;
}

void unpack_bits(const UnpackBitsArgs& a);
void unpack_bits(const UnpackBitsArgs& a) {
  const MaskTarget mask = {a.bytes, prune::MaskFormat::bytes};
  for (std::int64_t i = 0; i < a.count; i += kBlock) {
    mark(mask, i, static_cast<int>(min_i64(kBlock, a.count - i)), a.bits[i / kBlock]);
  }
}

void list_bits(const ListBitsArgs& a);
void list_bits(const ListBitsArgs& a) {
  std::int64_t ones = 0;
  if (a.places == nullptr) {
    for (std::int64_t w = 0; w < a.words; ++w) ones += bits_in(a.bits[w]);
    *a.ones = ones;
    return;
  }
  for (std::int64_t w = 0; w < a.words; ++w) {
    const auto first = static_cast<std::uint32_t>(w * kBlock);
    const std::uint64_t set = a.bits[w];
    std::uint32_t* to = a.places + ones;
#if defined(GOSSAMER_AVX512)
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
#pragma GCC unroll 4
    for (int i = 0; i < kBlock; i += 16) {
      const auto part = static_cast<__mmask16>(set >> i);
      const __m512i x = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first) + i));
      _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(part, x));
      to += bits_in(part);
    }
#else
    for_bits(set, [&](int i) { *to++ = first + static_cast<std::uint32_t>(i); });
#endif
    ones += bits_in(set);
  }
  *a.ones = ones;
}

void write_bits(const WriteBitsArgs& a);
void write_bits(const WriteBitsArgs& a) {
  if (a.item == 2) return write<std::uint16_t>(a);
  if (a.item == 4) return write<std::uint32_t>(a);
  write<std::uint64_t>(a);
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
