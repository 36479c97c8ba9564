// Codes to numbers, group by group. A code less the zero times a float16 is exact in float32, and
// so is each code's share less the zero's. With 4 bits a group has 16 numbers at most, which are
// looked up.

#include "formats/quant/args.h"
#include "simd/codes.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

template <class T>
GOSSAMER_INLINE void bytes(const std::uint8_t* codes, int zero, T scale, int group, T* out) {
  for (int j = 0; j < group; ++j) out[j] = static_cast<T>(codes[j] - zero) * scale;
}

template <class T>
GOSSAMER_INLINE void nibbles(const std::uint8_t* codes, int zero, T scale, int group, T* out) {
  T table[16];
  for (int c = 0; c < 16; ++c) table[c] = static_cast<T>(c - zero) * scale;
  for (int j = 0; j < group; j += 2) {
    const unsigned both = codes[j / 2];
    out[j] = table[both & 15U];
    out[j + 1] = table[both >> 4U];
  }
}

#if defined(GOSSAMER_AVX512)
GOSSAMER_INLINE void bytes(const std::uint8_t* codes, int zero, float scale, int group,
                           float* out) {
  const __m512 s = _mm512_set1_ps(scale);
  const __m512 offset = _mm512_set1_ps(-scale * static_cast<float>(zero));
  for (int j = 0; j < group; j += 16) {
    const __m128i each = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + j));
    const __m512 code = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(each));
    _mm512_storeu_ps(out + j, _mm512_fmadd_ps(code, s, offset));
  }
}

GOSSAMER_INLINE void nibbles(const std::uint8_t* codes, int zero, float scale, int group,
                             float* out) {
  // Lane l takes bits 4·(l mod 8) on of word l / 8; the permutation looks at four bits only.
  const __m512i word = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512i shift = _mm512_set_epi32(28, 24, 20, 16, 12, 8, 4, 0, 28, 24, 20, 16, 12, 8, 4, 0);
  const __m512 all = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512 numbers = _mm512_fmadd_ps(all, _mm512_set1_ps(scale),
                                         _mm512_set1_ps(-scale * static_cast<float>(zero)));
  for (int j = 0; j < group; j += 16) {
    const __m512i both =
        _mm512_castsi128_si512(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + j / 2)));
    const __m512i code = _mm512_srlv_epi32(_mm512_permutexvar_epi32(word, both), shift);
    _mm512_storeu_ps(out + j, _mm512_permutexvar_ps(code, numbers));
  }
}
#elif defined(GOSSAMER_AVX2)
/// Codes of Bits bits.
template <int Bits>
GOSSAMER_INLINE void eights(const std::uint8_t* codes, int zero, float scale, int group,
                            float* out) {
  const __m256 s = _mm256_set1_ps(scale);
  const __m256 offset = _mm256_set1_ps(-scale * static_cast<float>(zero));
  for (int j = 0; j < group; j += 8) {
    const __m256 code = codes_to_floats<Bits>(codes + j * Bits / 8);
    _mm256_storeu_ps(out + j, _mm256_fmadd_ps(code, s, offset));
  }
}

GOSSAMER_INLINE void bytes(const std::uint8_t* codes, int zero, float scale, int group,
                           float* out) {
  eights<8>(codes, zero, scale, group, out);
}

GOSSAMER_INLINE void nibbles(const std::uint8_t* codes, int zero, float scale, int group,
                             float* out) {
  eights<4>(codes, zero, scale, group, out);
}
#elif defined(__aarch64__)
/// Four codes to numbers.
GOSSAMER_INLINE void four(uint16x4_t codes, float scale, float32x4_t offset, float* out) {
  vst1q_f32(out, vfmaq_n_f32(offset, vcvtq_f32_u32(vmovl_u16(codes)), scale));
}

/// Sixteen codes to numbers.
GOSSAMER_INLINE void sixteen(uint8x16_t codes, float scale, float32x4_t offset, float* out) {
  const uint16x8_t low = vmovl_u8(vget_low_u8(codes)), high = vmovl_high_u8(codes);
  four(vget_low_u16(low), scale, offset, out);
  four(vget_high_u16(low), scale, offset, out + 4);
  four(vget_low_u16(high), scale, offset, out + 8);
  four(vget_high_u16(high), scale, offset, out + 12);
}

GOSSAMER_INLINE void bytes(const std::uint8_t* codes, int zero, float scale, int group,
                           float* out) {
  const float32x4_t offset = vdupq_n_f32(-scale * static_cast<float>(zero));
  for (int j = 0; j < group; j += 16) sixteen(vld1q_u8(codes + j), scale, offset, out + j);
}

GOSSAMER_INLINE void nibbles(const std::uint8_t* codes, int zero, float scale, int group,
                             float* out) {
  const float32x4_t offset = vdupq_n_f32(-scale * static_cast<float>(zero));
  for (int j = 0; j < group; j += 16) {
    const uint8x8_t both = vld1_u8(codes + j / 2);
    const uint8x8_t low = vand_u8(both, vdup_n_u8(15)), high = vshr_n_u8(both, 4);
    sixteen(vcombine_u8(vzip1_u8(low, high), vzip2_u8(low, high)), scale, offset, out + j);
  }
}
#endif

template <class T, int Bits>
void dequantise_groups(const DequantiseArgs& a) {
  // Groups in another order than that of memory are prefetched.
  constexpr std::int64_t kAhead = 16;
  const QuantGroups& g = a.groups;
  const int group = g.group;
  const std::int64_t size = group * Bits / 8;
  T* out = static_cast<T*>(a.out);
  for (std::int64_t p = 0; p < a.count; ++p) {
    std::int64_t r = p;
    if (a.order != nullptr) {
      r = a.order[p];
      const std::int64_t next = a.order[p + kAhead < a.count ? p + kAhead : p];
      __builtin_prefetch(g.codes + next * size);
      __builtin_prefetch(g.scales + next);
      __builtin_prefetch(g.zeros + next);
    }
    const std::uint8_t* codes = g.codes + r * size;
    const auto scale = static_cast<T>(to_float(f16_t{g.scales[r]}));
    T* to = out + (a.places == nullptr ? p : a.places[p]) * group;
    if constexpr (Bits == 4) {
      nibbles(codes, g.zeros[r], scale, group, to);
    } else {
      bytes(codes, g.zeros[r], scale, group, to);
    }
  }
}

template <class T>
void dequantise_bits(const DequantiseArgs& a) {
  a.groups.bits == 4 ? dequantise_groups<T, 4>(a) : dequantise_groups<T, 8>(a);
}

}  // namespace

void dequantise(const DequantiseArgs& a);
void dequantise(const DequantiseArgs& a) {
  a.f64 ? dequantise_bits<double>(a) : dequantise_bits<float>(a);
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
