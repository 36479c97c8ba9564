// Sparse rows to dense ones: 32 elements at a time, the next values are expanded to the places
// whose bits are set.

#include "products/args.h"
#include "simd/bf16.h"
#include "simd/positions.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

GOSSAMER_INLINE void expand(std::uint32_t bits, __m512i values, std::uint16_t* to) {
  _mm512_storeu_si512(to, _mm512_maskz_expand_epi16(bits, values));
}

/// Of 32 elements, 16 values.
void from_2_of_4(const NmLines& a, std::int64_t ld, const std::uint8_t* indices,
                 const std::uint16_t* values, std::uint16_t* to) {
  for (std::int64_t i = 0; i < ld; i += 128) {
    std::uint32_t bits[4];
    bits_of_2_of_4(indices + i / 8, a.index_bytes - i / 8, bits);
    const std::uint16_t* from = values + i / 2;
    const std::int64_t left = a.slots - i / 2;
    if (left >= 64) {
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        const auto* p = reinterpret_cast<const __m256i*>(from + 16 * q);
        expand(bits[q], _mm512_castsi256_si512(_mm256_loadu_si256(p)), to + i + 32 * q);
      }
    } else {
      for (int q = 0; q < 4 && i + 32 * q < ld; ++q) {
        expand(bits[q], first_of(from + 16 * q, min_i64(16, left - 16 * q)), to + i + 32 * q);
      }
    }
  }
}

/// Groups of 4 or 8 elements, of which a part's bits are made first, 64 positions or more at a
/// time.
template <int N, int M>
void from_small(const NmLines& a, std::int64_t ld, const std::uint8_t* indices,
                const std::uint16_t* values, std::uint16_t* to) {
  // For position i, bit i; for two positions i%4 and i/4 of groups of 4, the bits of both groups.
  const __m512i place = _mm512_broadcast_i32x4(
      M == 8 ? _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128)
             : _mm_setr_epi8(0x11, 0x12, 0x14, 0x18, 0x21, 0x22, 0x24, 0x28, 0x41, 0x42, 0x44, 0x48,
                             -0x7f, -0x7e, -0x7c, -0x78));
  constexpr std::int64_t kEach = 32 * N / M;
  const std::uint16_t* const stop = to + ld;
  std::uint8_t positions[kMostSlots];
  std::uint32_t bits[kMostSlots / kEach];
  for (std::int64_t slot = 0; slot < a.slots; slot += kMostSlots) {
    const std::int64_t count = min_i64(kMostSlots, a.slots - slot);
    auto* bytes = reinterpret_cast<std::uint8_t*>(bits);
    if constexpr (M == 4) {
      const std::int64_t left = (count + 3) / 4;
      for (std::int64_t i = 0; i < kMostSlots / 4; i += 16, bytes += 32) {
        const std::uint8_t* from = indices + slot / 4 + i;
        const auto some = static_cast<__mmask16>(left - i >= 16 ? 0xffff
                                                 : left > i     ? (1 << (left - i)) - 1
                                                                : 0);
        const __m256i wide = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(some, from));
        const __m256i nibbles = _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)),
                                                 _mm256_set1_epi16(0x0f0f));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes),
                            _mm256_shuffle_epi8(_mm512_castsi512_si256(place), nibbles));
      }
    } else {
      read_any_positions(a.bits, indices + slot * a.bits / 8, count, positions);
      for (std::int64_t s = 0; s < count; s += 64, bytes += 64 / N) {
        const __mmask64 some = count - s >= 64 ? ~__mmask64{0} : (__mmask64{1} << (count - s)) - 1;
        __m512i found =
            _mm512_maskz_shuffle_epi8(some, place, _mm512_maskz_loadu_epi8(some, positions + s));
        if (N >= 2) found = _mm512_or_si512(found, _mm512_srli_epi16(found, 8));
        if (N >= 4) found = _mm512_or_si512(found, _mm512_srli_epi32(found, 16));
        if constexpr (N == 1) _mm512_storeu_si512(bytes, found);
        if constexpr (N == 2) {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), _mm512_cvtepi16_epi8(found));
        }
        if constexpr (N == 4) {
          _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(found));
        }
      }
    }
    // Bits of positions that are not there meet values that are not there, which are zeros.
    for (std::int64_t w = 0; w * kEach < count; ++w, to += 32) {
      const std::int64_t first = slot + w * kEach;
      // The line after the next.
      _mm_prefetch(values + first + 2 * a.slots, _MM_HINT_T1);
      expand(bits[w], first_of(values + first, a.slots - first), to);
    }
  }
  for (; to < stop; to += 32) _mm512_storeu_si512(to, _mm512_setzero_si512());
}

/// N is n, or 0 where it is not known to the compiler.
template <int N>
void from_any(const NmLines& a, std::int64_t ld, const std::uint8_t* indices,
              const std::uint16_t* values, std::uint16_t* to) {
  const std::int64_t n = N == 0 ? a.n : N;
  const int m = static_cast<int>(a.m);
  // Parts of whole groups, whose positions begin with a byte.
  const std::int64_t part = kMostSlots / (8 * n) * (8 * n);
  const std::uint16_t* const end = values + a.slots;
  const std::uint16_t* const stop = to + ld;
  std::uint8_t place[kMostSlots];
  std::uint64_t bits = 0;
  int filled = 0;
  const auto flush = [&] {
    const auto word = static_cast<std::uint32_t>(bits);
    expand(word, first_of(values, end - values), to);
    values += __builtin_popcount(word);
    to += 32;
  };
  for (std::int64_t slot = 0; slot < a.slots; slot += part) {
    const std::int64_t count = min_i64(part, a.slots - slot);
    read_any_positions(a.bits, indices + slot * a.bits / 8, count, place);
    for (std::int64_t s = 0; s < count;) {
      std::uint32_t group = 0;
      for (std::int64_t i = 0; i < n; ++i, ++s) group |= 1U << place[s];
      bits |= std::uint64_t{group} << filled;
      filled += m;
      if (filled >= 32) {
        flush();
        bits >>= 32;
        filled -= 32;
      }
    }
  }
  if (filled > 0 && to < stop) flush();
  for (; to < stop; to += 32) _mm512_storeu_si512(to, _mm512_setzero_si512());
}

void from_nm(const Bf16RowsArgs& args, std::int64_t row, std::uint16_t* to) {
  const NmLines& a = args.a.nm;
  const std::uint8_t* indices = a.indices + row * a.index_bytes;
  const auto* values = static_cast<const std::uint16_t*>(a.values) + row * a.slots;
  if (a.n == 2 && a.m == 4) {
    from_2_of_4(a, args.ld, indices, values, to);
  } else if (a.n == 1 && a.m == 4) {
    from_small<1, 4>(a, args.ld, indices, values, to);
  } else if (a.n == 2 && a.m == 8) {
    from_small<2, 8>(a, args.ld, indices, values, to);
  } else if (a.n == 4 && a.m == 8) {
    from_small<4, 8>(a, args.ld, indices, values, to);
  } else if (a.n == 1) {
    from_any<1>(a, args.ld, indices, values, to);
  } else if (a.n == 2) {
    from_any<2>(a, args.ld, indices, values, to);
  } else {
    from_any<0>(a, args.ld, indices, values, to);
  }
}

void from_bits(const Bf16RowsArgs& args, std::int64_t row, std::uint16_t* to) {
  const std::uint64_t* bits = args.a.bits + row * args.a.words;
  const auto* values = static_cast<const std::uint16_t*>(args.a.values) + args.a.begin[row];
  std::int64_t j = 0;
  for (; j + 64 <= args.ld; j += 64) {
    const std::uint64_t word = bits[j / 64];
    const auto first = static_cast<std::uint32_t>(word);
    expand(first, _mm512_loadu_si512(values), to + j);
    expand(static_cast<std::uint32_t>(word >> 32),
           _mm512_loadu_si512(values + __builtin_popcount(first)), to + j + 32);
    values += __builtin_popcountll(word);
  }
  if (j < args.ld) {
    expand(static_cast<std::uint32_t>(bits[j / 64]), _mm512_loadu_si512(values), to + j);
  }
}

void from_dense(const Bf16RowsArgs& args, std::int64_t row, std::uint16_t* to) {
  const auto* from = static_cast<const std::uint16_t*>(args.a.values) + row * args.a.cols;
  for (std::int64_t j = 0; j < args.ld; j += 32) {
    _mm512_storeu_si512(to + j, first_of(from + j, args.a.cols - j));
  }
}

}  // namespace

void bf16_rows(const Bf16RowsArgs& a);
void bf16_rows(const Bf16RowsArgs& a) {
  for (std::int64_t row = a.row0; row < a.row1; ++row) {
    auto* to = static_cast<std::uint16_t*>(a.to) + (row - a.row0) * a.ld;
    switch (a.a.form) {
      case Bf16Source::Form::dense:
        from_dense(a, row, to);
        break;
      case Bf16Source::Form::bits:
        from_bits(a, row, to);
        break;
      case Bf16Source::Form::nm:
        from_nm(a, row, to);
        break;
    }
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
