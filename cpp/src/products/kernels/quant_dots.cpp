// Rows of quantised groups times a few vectors, a vector of codes at a time. With AVX-512, 16 codes
// of four bits become numbers in two steps: each lane shifts its code down in one of the group's
// words, and looks it up in the 16 numbers that the group's scale and zero allow. Other codes are
// converted, and multiplied by the scale. Scales and zeros of many groups are converted at a time.
// Two partial sums for each vector hide the latency of the addition.

#include "products/args.h"
#include "simd/codes.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int kAtOnce = 128;  // groups whose scales are converted

// Distance in bytes at which codes are prefetched: hardware prefetchers stop at page boundaries.
constexpr int kAhead = 1024;

/// The scales and −zero·scale of some groups; both are exact in float32. They are converted well
/// before they are read: a load that meets a wider store on its way to memory waits for it.
struct Scales {
  alignas(64) float scale[kAtOnce], offset[kAtOnce];

  GOSSAMER_INLINE void convert(const std::uint16_t* scales, const std::uint8_t* zeros, int count) {
#if defined(GOSSAMER_AVX512)
    for (int g = 0; g < count; g += 16) {
      const auto mask =
          static_cast<__mmask16>(count - g >= 16 ? 0xffffU : 0xffffU >> (16 - count + g));
      const __m512 s = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, scales + g));
      const __m512 z =
          _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, zeros + g)));
      _mm512_store_ps(scale + g, s);
      _mm512_store_ps(offset + g, _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(s, z)));
    }
#else
    int g = 0;
    for (; g + 8 <= count; g += 8) {
      const __m256 s =
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + g)));
      _mm256_store_ps(scale + g, s);
      _mm256_store_ps(offset + g, _mm256_sub_ps(_mm256_setzero_ps(),
                                                _mm256_mul_ps(s, codes_to_floats<8>(zeros + g))));
    }
    for (; g < count; ++g) {
      scale[g] = to_float(f16_t{scales[g]});
      offset[g] = -scale[g] * static_cast<float>(zeros[g]);
    }
#endif
  }
};

// A Decoder<Bits> makes the numbers of a group, a vector at a time.
#if defined(GOSSAMER_AVX512)

template <int Bits>
struct Decoder;

/// In an order of their own: lane l holds number 8·(l mod 2) + l / 2.
template <>
struct Decoder<4> {
  __m512 numbers;

  GOSSAMER_INLINE Decoder(float scale, float offset) {
    const __m512 codes = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    numbers = _mm512_fmadd_ps(codes, _mm512_set1_ps(scale), _mm512_set1_ps(offset));
  }
  GOSSAMER_INLINE Vec<float> decode(const std::uint8_t* codes) const {
    const __m512i shift =
        _mm512_set_epi32(28, 28, 24, 24, 20, 20, 16, 16, 12, 12, 8, 8, 4, 4, 0, 0);
    long long both;
    __builtin_memcpy(&both, codes, 8);
    const __m512i code = _mm512_srlv_epi32(_mm512_set1_epi64(both), shift);
    return bit_cast<Vec<float>>(_mm512_permutexvar_ps(code, numbers));
  }
};

template <>
struct Decoder<8> {
  __m512 scale, offset;

  GOSSAMER_INLINE Decoder(float s, float o) : scale(_mm512_set1_ps(s)), offset(_mm512_set1_ps(o)) {}
  GOSSAMER_INLINE Vec<float> decode(const std::uint8_t* codes) const {
    const __m128i each = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    const __m512 code = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(each));
    return bit_cast<Vec<float>>(_mm512_fmadd_ps(code, scale, offset));
  }
};

#else

template <int Bits>
struct Decoder {
  __m256 scale, offset;

  GOSSAMER_INLINE Decoder(float s, float o) : scale(_mm256_set1_ps(s)), offset(_mm256_set1_ps(o)) {}
  GOSSAMER_INLINE Vec<float> decode(const std::uint8_t* codes) const {
    return bit_cast<Vec<float>>(_mm256_fmadd_ps(codes_to_floats<Bits>(codes), scale, offset));
  }
};

#endif

GOSSAMER_INLINE float sum_of(Vec<float> v) {
#if defined(GOSSAMER_AVX512)
  return _mm512_reduce_add_ps(bit_cast<__m512>(v));
#else
  float lane[8];
  store<8>(lane, v);
  return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
#endif
}

template <int Bits, int Group, int Batch>
void rows(const QuantDotsArgs& a) {
  constexpr int W = kLanes<float>, kBytes = Group * Bits / 8;
  Scales scales;
  for (std::int64_t i = a.row0; i < a.row1; ++i) {
    Vec<float> sum[2][Batch] = {};
    const std::int64_t end = a.indptr[i + 1];
    for (std::int64_t p = a.indptr[i]; p < end; p += kAtOnce) {
      const auto count = static_cast<int>(min_i64(kAtOnce, end - p));
      scales.convert(a.groups.scales + p, a.groups.zeros + p, count);
      const std::uint8_t* const codes = a.groups.codes + p * kBytes;
      const std::uint16_t* const indices = a.indices + p;
      const auto add = [&](int g, auto first) {
        const float* x = a.x + static_cast<std::int64_t>(indices[g]) * Group;
        const Decoder<Bits> decoder(scales.scale[g], scales.offset[g]);
        if constexpr (kBytes >= 16) __builtin_prefetch(codes + g * kBytes + kAhead);
#pragma GCC unroll 16
        for (int c = 0; c < Group / W; ++c) {
          const Vec<float> w = decoder.decode(codes + g * kBytes + c * W * Bits / 8);
#pragma GCC unroll 4
          for (int n = 0; n < Batch; ++n) {
            Vec<float>& to = sum[(decltype(first)::value + c) % 2][n];
            to = multiply_add<float>(w, load<W>(x + n * a.ldx + c * W), to);
          }
        }
      };
      int g = 0;
      for (; g + 4 <= count; g += 4) {
        if constexpr (kBytes < 16) __builtin_prefetch(codes + g * kBytes + kAhead);
        add(g, Int<0>{});
        add(g + 1, Int<1>{});
        add(g + 2, Int<0>{});
        add(g + 3, Int<1>{});
      }
      for (; g < count; ++g) add(g, Int<0>{});
    }
#pragma GCC unroll 4
    for (int n = 0; n < Batch; ++n) {
      a.y[n * a.ldy + (i - a.row0)] = sum_of(sum[0][n] + sum[1][n]);
    }
  }
}

template <int Bits, int Group>
void batches(const QuantDotsArgs& a) {
  switch (a.batch) {
    case 1:
      return rows<Bits, Group, 1>(a);
    case 2:
      return rows<Bits, Group, 2>(a);
    case 3:
      return rows<Bits, Group, 3>(a);
    default:
      return rows<Bits, Group, 4>(a);
  }
}

template <int Bits>
void groups(const QuantDotsArgs& a) {
  switch (a.groups.group) {
    case 16:
      return batches<Bits, 16>(a);
    case 32:
      return batches<Bits, 32>(a);
    case 64:
      return batches<Bits, 64>(a);
    default:
      return batches<Bits, 128>(a);
  }
}

}  // namespace

void quant_dots(const QuantDotsArgs& a);
void quant_dots(const QuantDotsArgs& a) { a.groups.bits == 4 ? groups<4>(a) : groups<8>(a); }

}  // namespace gossamer::detail::GOSSAMER_LEVEL
