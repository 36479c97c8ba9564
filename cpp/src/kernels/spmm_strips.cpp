// Few columns of B: 16 rows of A are 16 lanes, a strip of x stands in registers, and each step
// looks 16 values of x up by permutation: no gather, no sum across lanes. Strips outside, row
// groups inside.

#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {

#if defined(GOSSAMER_AVX512)
namespace {

// Steps to ask ahead: hardware prefetchers stop at page ends.
constexpr int kAhead = 32;

template <int Width>
struct Strip {
  __m512 part[Width / 16];

  GOSSAMER_INLINE __m512 look_up(__m512i index, __mmask16 upper) const {
    const __m512 low = _mm512_permutex2var_ps(part[0], index, part[1]);
    if constexpr (Width == 32) return low;
    if constexpr (Width == 64) {
      return _mm512_mask_mov_ps(low, upper, _mm512_permutex2var_ps(part[2], index, part[3]));
    }
  }
};

/// Columns [first, first+Width) of x, zeros from `cols` on.
template <int Width>
GOSSAMER_INLINE Strip<Width> load_strip(const float* x, std::int64_t first, std::int64_t cols) {
  Strip<Width> strip;
#pragma GCC unroll 4
  for (int i = 0; i < Width / 16; ++i) {
    const std::int64_t left = cols - (first + 16 * i);
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : left <= 0 ? 0 : (1 << left) - 1);
    strip.part[i] = _mm512_maskz_loadu_ps(mask, x + first + 16 * i);
  }
  return strip;
}

template <int Width, int Batch, bool Finite, class S>
void strips(const SpmmStripsArgs& a) {
  for (std::int64_t s = 0; s < a.strips; ++s) {
    Strip<Width> x[Batch];
#pragma GCC unroll 8
    for (int n = 0; n < Batch; ++n) x[n] = load_strip<Width>(a.x + n * a.ldx, s * Width, a.cols);
    const std::uint32_t* start = a.start + s * a.groups;
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const std::uint32_t begin = start[g], end = start[g + 1];
      const std::uint8_t* indices = a.indices + 16 * static_cast<std::int64_t>(begin);
      const S* values = static_cast<const S*>(a.values) + 16 * static_cast<std::int64_t>(begin);
      float* y = a.y + 16 * static_cast<std::int64_t>(a.order[s * a.groups + g]);
      __m512 sum[Batch];
#pragma GCC unroll 8
      for (int n = 0; n < Batch; ++n) sum[n] = _mm512_loadu_ps(y + n * a.ldy);
      for (std::uint32_t k = begin; k < end; ++k, indices += 16, values += 16) {
        __builtin_prefetch(values + 16 * kAhead);
        const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(indices));
        const __m512i index = _mm512_cvtepu8_epi32(packed);
        const __m512 value = bit_cast<__m512>(load_real<16>(values));
        const __mmask16 upper =
            Width == 64 ? _mm512_test_epi32_mask(index, _mm512_set1_epi32(32)) : __mmask16{0};
        // An unused lane holds the value 0, which is enough unless x holds an infinity.
        const auto live =
            Finite ? __mmask16{0xffff} : static_cast<__mmask16>(~_mm_movepi8_mask(packed));
#pragma GCC unroll 8
        for (int n = 0; n < Batch; ++n) {
          const __m512 picked = x[n].look_up(index, upper);
          sum[n] = Finite ? _mm512_fmadd_ps(value, picked, sum[n])
                          : _mm512_mask3_fmadd_ps(value, picked, sum[n], live);
        }
      }
#pragma GCC unroll 8
      for (int n = 0; n < Batch; ++n) _mm512_storeu_ps(y + n * a.ldy, sum[n]);
    }
  }
}

template <int Width, int Batch, class S>
void strips(const SpmmStripsArgs& a) {
  if (a.finite) {
    strips<Width, Batch, true, S>(a);
  } else {
    strips<Width, Batch, false, S>(a);
  }
}

template <int Width, class S>
void strips_of(const SpmmStripsArgs& a) {
  switch (a.batch) {
    case 1:
      return strips<Width, 1, S>(a);
    case 2:
      return strips<Width, 2, S>(a);
    case 3:
      return strips<Width, 3, S>(a);
    case 4:
      return strips<Width, 4, S>(a);
    default:
      break;
  }
  if constexpr (Width == 32) {
    switch (a.batch) {
      case 5:
        return strips<Width, 5, S>(a);
      case 6:
        return strips<Width, 6, S>(a);
      case 7:
        return strips<Width, 7, S>(a);
      default:
        return strips<Width, 8, S>(a);
    }
  }
}

}  // namespace
#endif

void spmm_strips(const SpmmStripsArgs& a);
void spmm_strips([[maybe_unused]] const SpmmStripsArgs& a) {
#if defined(GOSSAMER_AVX512)
  with_float_type(a.value_type, [&](auto stored) {
    using S = typename decltype(stored)::type;
    if constexpr (sizeof(S) <= 4) {
      if (a.width == 32) {
        strips_of<32, S>(a);
      } else {
        strips_of<64, S>(a);
      }
    }
  });
#else
  // pack() builds this layout only where vectors have 64 bytes.
  __builtin_trap();
#endif
}

void check_finite(const CheckFiniteArgs& a);
void check_finite(const CheckFiniteArgs& a) {
  constexpr int W = kLanes<float>;
  // 0·x is 0 for finite x and NaN otherwise.
  Vec<float> sum = {};
  float tail = 0;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const float* x = a.x + r * a.ldx;
    std::int64_t c = 0;
    for (; c + W <= a.cols; c += W) sum += load<W>(x + c) * 0.0f;
    for (; c < a.cols; ++c) tail += x[c] * 0.0f;
  }
  for (int l = 0; l < W; ++l) tail += sum[l];
  *a.finite = tail == 0.0f;
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
