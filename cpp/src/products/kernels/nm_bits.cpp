// Which elements of N:M lines are entries, as bits. The positions of 2:4 are looked up a group at a
// time. Others are spread to bytes, up to 64 at a time, and looked up as a bit each; the bits of a
// group are merged, and those of several groups moved together. Groups of more than eight entries
// are done one position after the other.

#include "products/args.h"
#include "simd/positions.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// The first `count` of 64 bytes, or all; zeros behind them.
GOSSAMER_INLINE __m512i first_bytes(const std::uint8_t* p, std::int64_t count) {
  const __mmask64 some = count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
  return _mm512_maskz_loadu_epi8(some, p);
}

/// Bits one after the other in words.
struct Writer {
  std::uint64_t* to;
  std::uint64_t word = 0;
  int filled = 0;

  /// The `count` lowest bits of `bits`, which has no others.
  GOSSAMER_INLINE void add(std::uint64_t bits, int count) {
    word |= bits << filled;
    const int before = filled;
    filled += count;
    if (filled >= 64) {
      *to++ = word;
      filled -= 64;
      word = before == 0 ? 0 : bits >> (64 - before);
    }
  }
  GOSSAMER_INLINE void finish() {
    if (filled > 0) *to = word;
  }
};

/// 2:4: a nibble has the positions of a group, from which a table gives its four bits.
struct TwoOfFour {
  __m512i table =
      _mm512_broadcast_i32x4(_mm_setr_epi8(1, 3, 5, 9, 3, 2, 6, 10, 5, 6, 4, 12, 9, 10, 12, 8));

  GOSSAMER_INLINE void operator()(const NmLines& a, const std::uint8_t* indices, std::int64_t ahead,
                                  std::uint64_t* to) const {
    const __m512i low = _mm512_set1_epi8(15);
    for (std::int64_t i = 0; i < a.index_bytes; i += 64, to += 8) {
      _mm_prefetch(indices + i + ahead, _MM_HINT_T1);
      const __m512i packed = first_bytes(indices + i, a.index_bytes - i);
      const __m512i even = _mm512_shuffle_epi8(table, _mm512_and_si512(packed, low));
      const __m512i odd =
          _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(packed, 4), low));
      _mm512_storeu_si512(to, _mm512_or_si512(even, _mm512_slli_epi16(odd, 4)));
    }
  }
};

/// Groups of at most eight entries.
class FewEntries {
 public:
  explicit FewEntries(const NmLines& a)
      : n_(static_cast<int>(a.n)),
        lane_(a.m <= 8    ? 8
              : a.m <= 16 ? 16
                          : 32),
        four_(a.m == 4),
        adjacent_(four_ || a.m == lane_),
        at_once_(8 * min_i64(8 / n_, 64 / lane_)),
        bytes_(at_once_ / 8 * n_ * a.bits) {
    for (int i = 0; i < 64; i += lane_) lanes_ |= ((std::uint64_t{1} << a.m) - 1) << i;
    std::uint8_t byte[64], shift[64], first[64], one[4][64];
    for (int i = 0; i < 64; ++i) {
      byte[i] = static_cast<std::uint8_t>(i / 8 * a.bits + i % 8);
      shift[i] = static_cast<std::uint8_t>(i % 8 * a.bits);
      first[i] = static_cast<std::uint8_t>(i * n_);
      const int position = i & ((1 << a.bits) - 1);
      for (int p = 0; p < 4; ++p) {
        one[p][i] = static_cast<std::uint8_t>(position / 8 == p ? 1 << position % 8 : 0);
      }
    }
    byte_ = _mm512_loadu_si512(byte);
    shift_ = _mm512_loadu_si512(shift);
    first_ = _mm512_loadu_si512(first);
    for (int p = 0; p < 4; ++p) one_[p] = _mm512_loadu_si512(one[p]);
  }

  GOSSAMER_INLINE void operator()(const NmLines& a, const std::uint8_t* indices, std::int64_t ahead,
                                  std::uint64_t* to) const {
    Writer writer{to};
    const int each = 64 / lane_, bits = each * static_cast<int>(a.m);
    const std::uint8_t* end = indices + a.index_bytes;
    for (std::int64_t left = a.slots / n_; left > 0; left -= at_once_, indices += bytes_) {
      _mm_prefetch(indices + ahead, _MM_HINT_T1);
      const __m512i packed = first_bytes(indices, end - indices);
      // Each byte gets its position in its lowest bits; the lookup ignores the others.
      const __m512i positions =
          _mm512_multishift_epi64_epi8(shift_, _mm512_permutexvar_epi8(byte_, packed));
      const __m512i groups = in_lanes(positions);
      if (adjacent_) {
        _mm512_storeu_si512(to, groups);
        to += at_once_ * a.m / 64;
        continue;
      }
      std::uint64_t words[8];
      _mm512_storeu_si512(words, groups);
      const std::int64_t count = min_i64(left, at_once_);
      for (std::int64_t i = 0; i * each < count; ++i) {
        writer.add(_pext_u64(words[i], lanes_), bits);
      }
    }
    writer.finish();
  }

 private:
  /// The groups' bits, a group in each lane, or side by side where m is 4.
  GOSSAMER_INLINE __m512i in_lanes(__m512i positions) const {
    const __m512i low = part(positions, 0);
    if (four_) {
      return _mm512_castsi256_si512(
          _mm512_cvtepi16_epi8(_mm512_or_si512(low, _mm512_srli_epi16(low, 4))));
    }
    if (lane_ == 8) return low;
    if (lane_ == 16) {
      return _mm512_or_si512(wide16(low), _mm512_slli_epi16(wide16(part(positions, 1)), 8));
    }
    __m512i bits = wide32(low);
    for (int p = 1; p < 4; ++p) {
      bits = _mm512_or_si512(
          bits, _mm512_slli_epi32(wide32(part(positions, p)), static_cast<unsigned>(8 * p)));
    }
    return bits;
  }

  static GOSSAMER_INLINE __m512i wide16(__m512i x) {
    return _mm512_cvtepu8_epi16(_mm512_castsi512_si256(x));
  }
  static GOSSAMER_INLINE __m512i wide32(__m512i x) {
    return _mm512_cvtepu8_epi32(_mm512_castsi512_si128(x));
  }

  /// Byte p of each group's bits.
  GOSSAMER_INLINE __m512i part(__m512i positions, int p) const {
    const __m512i bits = _mm512_permutexvar_epi8(positions, one_[p]);
    __m512i place = first_, merged = _mm512_permutexvar_epi8(place, bits);
    for (int i = 1; i < n_; ++i) {
      place = _mm512_add_epi8(place, _mm512_set1_epi8(1));
      merged = _mm512_or_si512(merged, _mm512_permutexvar_epi8(place, bits));
    }
    return merged;
  }

  int n_, lane_;
  bool four_, adjacent_;
  std::int64_t at_once_, bytes_;
  std::uint64_t lanes_ = 0;
  __m512i byte_, shift_, first_, one_[4];
};

struct OneByOne {
  void operator()(const NmLines& a, const std::uint8_t* indices, std::int64_t /*ahead*/,
                  std::uint64_t* to) const {
    // Parts of whole groups, whose positions begin with a byte.
    const std::int64_t part = kMostSlots / (8 * a.n) * (8 * a.n);
    Writer writer{to};
    std::uint8_t place[kMostSlots];
    for (std::int64_t slot = 0; slot < a.slots; slot += part) {
      const std::int64_t count = min_i64(part, a.slots - slot);
      read_any_positions(a.bits, indices + slot * a.bits / 8, count, place);
      for (std::int64_t s = 0; s < count;) {
        std::uint64_t group = 0;
        for (std::int64_t i = 0; i < a.n; ++i, ++s) group |= std::uint64_t{1} << place[s];
        writer.add(group, static_cast<int>(a.m));
      }
    }
    writer.finish();
  }
};

template <class Find>
void all_lines(const NmBitsArgs& args, const Find& find) {
  const NmLines& a = args.a;
  const std::int64_t cols = a.slots / a.n * a.m;
  // Prefetches the next strip, which usually has as many lines.
  const std::int64_t ahead = (args.line1 - args.line0) * a.index_bytes;
  for (std::int64_t line = args.line0; line < args.line1; ++line) {
    std::uint64_t* to = args.to + (line - args.line0) * args.words;
    find(a, a.indices + line * a.index_bytes, ahead, to);
    std::int64_t w = cols / 64;
    if (cols % 64 != 0) to[w++] &= (std::uint64_t{1} << (cols % 64)) - 1;
    for (; w < args.words; ++w) to[w] = 0;
  }
}

}  // namespace

void nm_bits(const NmBitsArgs& a);
void nm_bits(const NmBitsArgs& a) {
  if (a.a.n == 2 && a.a.m == 4) return all_lines(a, TwoOfFour{});
  a.a.n <= 8 ? all_lines(a, FewEntries(a.a)) : all_lines(a, OneByOne{});
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
