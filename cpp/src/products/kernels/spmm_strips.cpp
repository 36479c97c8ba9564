// A product with few columns of B, in the "strips" layout. The lanes are 16 rows of A, and a strip
// of x is held in registers; each step looks up 16 values of x by a permutation, so that there is
// neither a gather nor a sum across lanes. Loops over strips, within them over groups of rows.

#include "products/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

// Distance in bytes at which values are prefetched: hardware prefetchers stop at page boundaries.
constexpr int kAhead = 2048;

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

template <int Width, int Batch, class S>
void strips(const SpmmStripsArgs& a) {
  // With few columns, two independent sums hide the latency of the addition.
  constexpr int kSums = Batch <= 2 ? 2 : 1;
  const StripGroup* group = a.group;
  const std::uint8_t* counts = a.counts;
  const std::uint8_t* indices = a.indices;
  const S* values = static_cast<const S*>(a.values);
  for (std::int64_t s = 0; s < a.strips; ++s) {
    Strip<Width> x[Batch];
#pragma GCC unroll 8
    for (int n = 0; n < Batch; ++n) x[n] = load_strip<Width>(a.x + n * a.ldx, s * Width, a.cols);
    for (std::int64_t g = 0; g < a.groups; ++g, ++group) {
      __m512 sum[kSums][Batch];
#pragma GCC unroll 8
      for (int n = 0; n < Batch; ++n) {
#pragma GCC unroll 2
        for (int u = 0; u < kSums; ++u) sum[u][n] = _mm512_setzero_ps();
      }
      const auto step = [&](unsigned count, __m512* sums) {
        const auto live = static_cast<__mmask16>(0xffffU >> (16 - count));
        const __m512i index =
            _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(indices)));
        const __m512 value = bit_cast<__m512>(load_real<16>(values));
        const __mmask16 upper =
            Width == 64 ? _mm512_test_epi32_mask(index, _mm512_set1_epi32(32)) : __mmask16{0};
#pragma GCC unroll 8
        for (int n = 0; n < Batch; ++n) {
          sums[n] = _mm512_mask3_fmadd_ps(value, x[n].look_up(index, upper), sums[n], live);
        }
        indices += count;
        values += count;
      };
      const std::uint8_t* const end = counts + group->steps;
      for (; counts + kSums <= end; counts += kSums) {
        const char* ahead = reinterpret_cast<const char*>(values) + kAhead;
        __builtin_prefetch(ahead);
        if constexpr (kSums * sizeof(S) > 4) __builtin_prefetch(ahead + 64);
#pragma GCC unroll 2
        for (int u = 0; u < kSums; ++u) step(counts[u], sum[u]);
      }
      if (kSums == 2 && counts < end) step(*counts++, sum[0]);
      const __m512i place =
          _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group->place)));
      float* y = a.y + 16 * static_cast<std::int64_t>(group->order);
#pragma GCC unroll 8
      for (int n = 0; n < Batch; ++n) {
        if constexpr (kSums == 2) sum[0][n] += sum[1][n];
        const __m512 total =
            _mm512_loadu_ps(y + n * a.ldy) + _mm512_permutexvar_ps(place, sum[0][n]);
        _mm512_storeu_ps(y + n * a.ldy, total);
      }
    }
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

void spmm_strips(const SpmmStripsArgs& a);
void spmm_strips(const SpmmStripsArgs& a) {
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
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
