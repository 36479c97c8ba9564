// One pass of a random mask (docs/selection.md). A key's upper byte is made and compared in
// registers and the L1 cache, element after element. Elements that the byte does not decide are
// listed, and only for these the other 32 bits of the key are made, many at a time.

#include "prune/select/args.h"
#include "simd/keys.h"
#include "simd/philox.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

using Words = Vec<std::uint64_t>;  // each lane holds a 32-bit word; its upper bits are undefined
constexpr int W = kLanes<std::uint64_t>;
constexpr int kBlockBytes = 16;                     // random bytes that one counter gives
constexpr int kTogether = W == 8 ? 4 : 2;           // independent chains, to hide latencies
constexpr int kStep = kTogether * W * kBlockBytes;  // elements whose bytes are made at once
constexpr int kBeside = kPhiloxRounds - 3;
constexpr int kAtOnce = kStep / kBlock;
static_assert(kStep % kBlock == 0);

/// The 64-bit products of the lower 32 bits of each lane.
GOSSAMER_INLINE Words multiply(Words x, std::uint32_t factor) {
#if defined(GOSSAMER_AVX512)
  return reinterpret_cast<Words>(
      _mm512_mul_epu32(reinterpret_cast<__m512i>(x),
                       reinterpret_cast<__m512i>(broadcast<W>(std::uint64_t{factor}))));
#elif defined(GOSSAMER_AVX2)
  return reinterpret_cast<Words>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(x),
                       reinterpret_cast<__m256i>(broadcast<W>(std::uint64_t{factor}))));
#elif defined(__SSE2__)
  return reinterpret_cast<Words>(
      _mm_mul_epu32(reinterpret_cast<__m128i>(x),
                    reinterpret_cast<__m128i>(broadcast<W>(std::uint64_t{factor}))));
#else
  return (x & 0xffffffffu) * factor;
#endif
}

/// The product with its halves exchanged; the lower 32 bits are then exclusive-or'ed with those of
/// word and with key.
GOSSAMER_INLINE Words turn(Words product, Words word, std::uint64_t key) {
#if defined(GOSSAMER_AVX512)
  const __m512i turned = _mm512_rol_epi64(reinterpret_cast<__m512i>(product), 32);
  return reinterpret_cast<Words>(
      _mm512_mask_ternarylogic_epi32(turned, 0x5555, reinterpret_cast<__m512i>(word),
                                     reinterpret_cast<__m512i>(broadcast<W>(key)), 0x96));
#else
  return (product << 32 | product >> 32) ^ (word & 0xffffffffu) ^ key;
#endif
}

/// Philox4x32-10 for counters that differ in their lowest word alone. What the first two rounds
/// compute from the other words is constant, so the constructor does it once.
class Generator {
 public:
  Generator(std::uint64_t seed, std::uint64_t step, std::uint64_t counter) {
    std::uint32_t key[2] = {static_cast<std::uint32_t>(seed),
                            static_cast<std::uint32_t>(seed >> 32)};
    for (auto& round : keys_) {
      for (int i = 0; i < 2; ++i) {
        round[i] = key[i];
        key[i] += kPhiloxSteps[i];
      }
    }
    const std::uint64_t first = std::uint64_t{kPhiloxFactors[1]} * static_cast<std::uint32_t>(step);
    const std::uint64_t second = (first >> 32) ^ (counter >> 32) ^ keys_[0][0];
    const std::uint64_t product = kPhiloxFactors[0] * second;
    keys_[0][1] ^= step >> 32;
    keys_[1][0] ^= static_cast<std::uint32_t>(first);
    keys_[1][1] ^= product >> 32;
    last_ = static_cast<std::uint32_t>(product);
  }

  /// Makes the random words of kTogether vectors of counters, given by their lowest word; each
  /// 64-bit lane of the result holds two of the four words. Between rounds it calls beside(i), i <
  /// kBeside: work that runs at the same time because it uses other execution ports than
  /// multiplications.
  template <class F>
  GOSSAMER_INLINE void operator()(const Words (&low)[kTogether], Words (&pairs)[kTogether][2],
                                  F&& beside) const {
    // Hides from the compiler that the keys do not change: it would load them all into registers
    // ahead of the loop, which has too few.
    const Generator* self = this;
    asm volatile("" : "+r"(self));
    const auto& keys = self->keys_;
    Words c[kTogether][4];
#pragma GCC unroll 4
    for (int t = 0; t < kTogether; ++t) {
      const Words p = multiply(low[t], kPhiloxFactors[0]);
      const Words q = multiply((p >> 32) ^ keys[0][1], kPhiloxFactors[1]);
      c[t][0] = (q >> 32) ^ keys[1][0];
      c[t][1] = q;
      c[t][2] = p ^ keys[1][1];
      c[t][3] = broadcast<W>(self->last_);
    }
#pragma GCC unroll 8
    for (int round = 2; round < kLast; ++round) {
#pragma GCC unroll 4
      for (int t = 0; t < kTogether; ++t) {
        const Words p = multiply(c[t][0], kPhiloxFactors[0]);
        const Words q = multiply(c[t][2], kPhiloxFactors[1]);
        c[t][0] = (q >> 32) ^ c[t][1] ^ keys[round][0];
        c[t][1] = q;
        c[t][2] = (p >> 32) ^ c[t][3] ^ keys[round][1];
        c[t][3] = p;
      }
      beside(round - 2);
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTogether; ++t) {
      const Words p = multiply(c[t][0], kPhiloxFactors[0]);
      const Words q = multiply(c[t][2], kPhiloxFactors[1]);
      pairs[t][0] = turn(q, c[t][1], keys[kLast][0]);
      pairs[t][1] = turn(p, c[t][3], keys[kLast][1]);
    }
  }

 private:
  static constexpr int kLast = kPhiloxRounds - 1;
  std::uint64_t keys_[kPhiloxRounds][2];
  std::uint64_t last_;
};

/// Makes kStep random bytes, those of the counters from `counter` on.
template <class F>
GOSSAMER_INLINE void make_bytes(const Generator& generator, std::uint32_t counter,
                                std::uint8_t* bytes, F&& beside) {
  // Even lanes hold the first half of the counters and odd lanes the second, so that exchanging
  // lanes of the two pairs yields the words in the order of counters.
  Words low[kTogether], pairs[kTogether][2];
  for (int t = 0; t < kTogether; ++t) {
    for (int l = 0; l < W; ++l) {
      low[t][l] = static_cast<std::uint64_t>(t * W + l / 2 + (l % 2) * (W / 2));
    }
    low[t] += counter;
  }
  generator(low, pairs, beside);
  auto* to = reinterpret_cast<std::uint64_t*>(bytes);
#pragma GCC unroll 4
  for (int t = 0; t < kTogether; ++t) {
    exchange_halves<1>(pairs[t][0], pairs[t][1], typename MakeLanes<W>::type{});
    store<W>(to + 2 * t * W, pairs[t][0]);
    store<W>(to + (2 * t + 1) * W, pairs[t][1]);
  }
}

constexpr int B = kLanes<std::uint8_t>;
constexpr std::int64_t kTile = 8192;  // elements whose bytes are kept
constexpr int kBlocks = kTile / kBlock;
static_assert(kTile % kStep == 0 && kBlocks < 256);
static_assert(kRandomPiece <= 1 << kNumberBits);

/// The upper bytes of a tile's keys, and for each block the elements that they leave undecided.
struct Tile {
  alignas(64) std::uint8_t bytes[kTile];
  alignas(64) std::uint64_t open[kBlocks];
};

#if !defined(GOSSAMER_AVX512)

/// Bit i = the highest bit of byte i.
GOSSAMER_INLINE std::uint64_t high_bits(Vec<std::uint8_t> x) {
#if defined(GOSSAMER_AVX2)
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(reinterpret_cast<__m256i>(x)));
#elif defined(__SSE2__)
  return static_cast<std::uint32_t>(_mm_movemask_epi8(reinterpret_cast<__m128i>(x)));
#else
  std::uint64_t bits = 0;
  for (int i = 0; i < B; ++i) bits |= static_cast<std::uint64_t>(x[i] >> 7) << i;
  return bits;
#endif
}

#endif

/// Of the eligible elements of block b, marks those with a byte above lo + width, and notes those
/// with a byte in [lo, lo + width] as open. Adds the marks to the counts in `marked`, lane by lane.
GOSSAMER_INLINE void mark_bytes(Tile& tile, int b, const std::uint8_t* within, std::uint8_t lo,
                                std::uint8_t width, std::uint8_t* mask,
                                Vec<std::uint8_t> (&marked)[kBlock / B]) {
  const auto hi = static_cast<std::uint8_t>(lo + width);
#if defined(GOSSAMER_AVX512)
  const __m512i x = _mm512_load_si512(tile.bytes + b * kBlock);
  const __mmask64 valid = within == nullptr ? ~std::uint64_t{0} : nonzero_bytes(within);
  const __mmask64 above =
      _mm512_mask_cmpgt_epu8_mask(valid, x, _mm512_set1_epi8(static_cast<char>(hi)));
  const __m512i ones = _mm512_maskz_mov_epi8(above, _mm512_set1_epi8(1));
  const __m512i distance = _mm512_sub_epi8(x, _mm512_set1_epi8(static_cast<char>(lo)));
  tile.open[b] =
      _mm512_mask_cmple_epu8_mask(valid, distance, _mm512_set1_epi8(static_cast<char>(width)));
  _mm512_storeu_si512(mask, ones);
  marked[0] += bit_cast<Vec<std::uint8_t>>(ones);
#else
  std::uint64_t open = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kBlock; i += B) {
    const Vec<std::uint8_t> x = load<B>(tile.bytes + b * kBlock + i);
    auto ones = reinterpret_cast<Vec<std::uint8_t>>(x > hi) & std::uint8_t{1};
    auto inside = reinterpret_cast<Vec<std::uint8_t>>(x - lo <= width);
    if (within != nullptr) {
      const auto valid = reinterpret_cast<Vec<std::uint8_t>>(load<B>(within + i) != 0);
      ones &= valid;
      inside &= valid;
    }
    open |= high_bits(inside) << i;
    store<B>(mask + i, ones);
    marked[i / B] += ones;
  }
  tile.open[b] = open;
#endif
}

/// Bit i = whether words[i] is nonzero, i < 64.
GOSSAMER_INLINE std::uint64_t nonzero_words(const std::uint64_t* words) {
  std::uint64_t result = 0;
#if defined(GOSSAMER_AVX512)
  for (int i = 0; i < 64; i += 8) {
    const __m512i x = _mm512_load_si512(words + i);
    result |= std::uint64_t{_mm512_test_epi64_mask(x, x)} << i;
  }
#else
  for (int i = 0; i < 64; ++i) result |= std::uint64_t{words[i] != 0} << i;
#endif
  return result;
}

constexpr int kTails = kTogether * W;
constexpr int kEnough = 1024;  // tails are made once this many open elements are listed
constexpr std::uint32_t kNumbers = (1u << kNumberBits) - 1;

}  // namespace

void random_scan(const RandomScanArgs& a);
void random_scan(const RandomScanArgs& args) {
  // A copy: the compiler must assume that stores to a mask of bytes change `args`.
  const RandomScanArgs a = args;
  const auto lo = static_cast<std::uint8_t>(a.lo >> kTailBits);
  const auto width = static_cast<std::uint8_t>((a.hi >> kTailBits) - lo);
  const Generator heads(a.seed, a.step, a.first / kBlockBytes);
  const Generator tails(a.seed, a.step, kKeyTails + a.first);
  // Blocks begin at multiples of 64 elements; elements are numbered from `first`.
  const int skip = static_cast<int>(a.first % kBlock);
  auto counter = static_cast<std::uint32_t>((a.first - skip) / kBlockBytes);
  Tile tile;
  std::uint8_t part[kBlock];
  // Open elements: the key's upper byte, then the element's number.
  std::uint32_t list[kEnough + kTile + kTails];
  int listed = 0;
  std::int64_t above = 0, inside = 0;

  // Makes the tails of `count` ≤ kTails listed elements, and marks, counts or stores them.
  const auto decide = [&](const std::uint32_t* entries, int count) {
    Words low[kTogether], pairs[kTogether][2];
    for (int t = 0; t < kTogether; ++t) {
      const auto numbers = load<W>(entries + t * W) & kNumbers;
      low[t] = __builtin_convertvector(numbers + static_cast<std::uint32_t>(a.first), Words);
    }
    tails(low, pairs, [](int) {});
    alignas(64) std::uint8_t marks[kTails];
#pragma GCC unroll 4
    for (int t = 0; t < kTogether; ++t) {
      const Words entry = __builtin_convertvector(load<W>(entries + t * W), Words);
      const Words key = (entry >> kNumberBits) << kTailBits | (pairs[t][0] & 0xffffffffu);
      const Words stored = key << kNumberBits | (entry & kNumbers);
#if defined(GOSSAMER_AVX512)
      const auto valid = static_cast<__mmask8>(((std::uint64_t{1} << count) - 1) >> (t * W));
      const auto k = bit_cast<__m512i>(key);
      const __mmask8 greater =
          _mm512_mask_cmpgt_epu64_mask(valid, k, _mm512_set1_epi64(static_cast<long long>(a.hi)));
      const __mmask8 from =
          _mm512_mask_cmpge_epu64_mask(valid, k, _mm512_set1_epi64(static_cast<long long>(a.lo)));
      const auto in = static_cast<__mmask8>(from & ~greater);
      _mm512_storeu_si512(a.stored + inside,
                          _mm512_maskz_compress_epi64(in, bit_cast<__m512i>(stored)));
      inside += bits_in(in);
      above += bits_in(greater);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(marks + t * W), _mm_maskz_set1_epi8(greater, 1));
#else
      for (int l = 0; l < W && t * W + l < count; ++l) {
        const std::uint64_t greater = key[l] > a.hi ? 1 : 0;
        marks[t * W + l] = static_cast<std::uint8_t>(greater);
        above += static_cast<std::int64_t>(greater);
        a.stored[inside] = stored[l];
        inside += static_cast<std::int64_t>((key[l] >= a.lo ? 1u : 0u) - greater);
      }
#endif
    }
    for (int e = 0; e < count && a.mask != nullptr; ++e) a.mask[entries[e] & kNumbers] = marks[e];
  };

  for (std::int64_t at = -skip; at < a.count; at += kTile) {
    Vec<std::uint8_t> marked[kBlock / B];
    for (auto& lanes : marked) lanes = Vec<std::uint8_t>{};
    const bool whole = at >= 0 && at + kTile <= a.count;
    const int blocks = static_cast<int>(min_i64(kTile, a.count - at) + kBlock - 1) / kBlock;
    const auto mark = [&](int b) {
      const std::int64_t i = at + b * kBlock;
      mark_bytes(tile, b, a.within == nullptr ? nullptr : a.within + i, lo, width,
                 a.mask == nullptr ? part : a.mask + i, marked);
    };
    for (int b = 0; b < blocks; b += kAtOnce, counter += kStep / kBlockBytes) {
      std::uint8_t* bytes = tile.bytes + b * kBlock;
      if (whole && b > 0) {
        make_bytes(heads, counter, bytes, [&](int i) {
          for (int j = i; j < kAtOnce; j += kBeside) mark(b - kAtOnce + j);
        });
      } else {
        make_bytes(heads, counter, bytes, [](int) {});
      }
    }
    for (int b = whole ? kBlocks - kAtOnce : 0; b < blocks; ++b) {
      const std::int64_t i = at + b * kBlock, begin = i < 0 ? 0 : i;
      const std::int64_t end = min_i64(a.count, i + kBlock);
      if (whole) {
        mark(b);
        continue;
      }
      std::uint8_t within[kBlock] = {};
      for (std::int64_t e = begin; e < end; ++e) {
        within[e - i] = a.within == nullptr ? 1 : a.within[e];
      }
      mark_bytes(tile, b, within, lo, width, part, marked);
      for (std::int64_t e = begin; a.mask != nullptr && e < end; ++e) a.mask[e] = part[e - i];
    }
    for (int b = blocks; b < kBlocks; ++b) tile.open[b] = 0;
    for (const auto& lanes : marked) {
      std::uint8_t counts[B];
      store<B>(counts, lanes);
      for (const std::uint8_t n : counts) above += n;
    }

    const auto offset = static_cast<std::uint32_t>(at);
    for (int first = 0; first < kBlocks; first += kBlock) {
      for (std::uint64_t left = nonzero_words(tile.open + first); left != 0; left &= left - 1) {
        const int b = first + __builtin_ctzll(left);
        std::uint64_t set = tile.open[b];
        const int n = bits_in(set);
        const auto entry = [&] {
          const int j = b * kBlock + __builtin_ctzll(set | std::uint64_t{1} << 63);
          set &= set - 1;
          return std::uint32_t{tile.bytes[j]} << kNumberBits |
                 (offset + static_cast<std::uint32_t>(j));
        };
        // Most words have one or two open elements. Always writing two avoids a branch that would
        // be mispredicted often.
        list[listed] = entry();
        list[listed + 1] = entry();
        for (int e = 2; e < n; ++e) list[listed + e] = entry();
        listed += n;
      }
    }
    if (listed < kEnough && at + kTile < a.count) continue;
    for (int e = 0; e < kTails; ++e) list[listed + e] = 0;
    for (int done = 0; done < listed; done += kTails) {
      decide(list + done, listed - done < kTails ? listed - done : kTails);
    }
    listed = 0;
  }
  *a.above = above;
  *a.inside = inside;
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
