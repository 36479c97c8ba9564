// Random masks: bytes of keys are made and compared in registers and the first-level cache, in
// order; what bytes leave undecided is listed, and its tails follow at the end of the tile.

#include "kernels/philox.h"
#include "kernels/select_keys.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

using Words = Vec<std::uint64_t>;  // 32 bits a lane; what lies above them is undefined
constexpr int W = kLanes<std::uint64_t>;
constexpr int kBlockBytes = 16;                     // of one counter
constexpr int kTogether = W == 8 ? 4 : 2;           // independent chains
constexpr int kStep = kTogether * W * kBlockBytes;  // elements
static_assert(kStep % kBlock == 0);

/// Products of 32 and 32 bits.
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

/// Philox of counters that differ in their lowest word alone: what the first two rounds make of the
/// others is a constant.
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

  /// The four words of kTogether vectors of counters, given by their lowest word.
  GOSSAMER_INLINE void operator()(const Words (&low)[kTogether], Words (&c)[kTogether][4]) const {
    // Keys are read where they are used: the compiler would move them all into registers that a
    // loop does not have.
    const Generator* self = this;
    asm volatile("" : "+r"(self));
    const auto& keys = self->keys_;
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
    for (int round = 2; round < kPhiloxRounds; ++round) {
#pragma GCC unroll 4
      for (int t = 0; t < kTogether; ++t) {
        const Words p = multiply(c[t][0], kPhiloxFactors[0]);
        const Words q = multiply(c[t][2], kPhiloxFactors[1]);
        c[t][0] = (q >> 32) ^ c[t][1] ^ keys[round][0];
        c[t][1] = q;
        c[t][2] = (p >> 32) ^ c[t][3] ^ keys[round][1];
        c[t][3] = p;
      }
    }
  }

 private:
  std::uint64_t keys_[kPhiloxRounds][2];
  std::uint64_t last_;
};

/// Two words a lane.
GOSSAMER_INLINE Words join(Words low, Words high) {
#if defined(GOSSAMER_AVX512)
  return reinterpret_cast<Words>(_mm512_mask_shuffle_epi32(
      reinterpret_cast<__m512i>(low), 0xaaaa, reinterpret_cast<__m512i>(high), _MM_PERM_CCAA));
#else
  return (low & 0xffffffffu) | (high << 32);
#endif
}

/// kStep bytes from a counter's block on.
GOSSAMER_INLINE void make_bytes(const Generator& generator, std::uint32_t counter,
                                std::uint8_t* bytes) {
  // Even lanes have the first half of the counters, so that pairs of lanes come out in order.
  Words low[kTogether], words[kTogether][4];
  for (int t = 0; t < kTogether; ++t) {
    for (int l = 0; l < W; ++l) {
      low[t][l] = static_cast<std::uint64_t>(t * W + l / 2 + (l % 2) * (W / 2));
    }
    low[t] += counter;
  }
  generator(low, words);
  auto* to = reinterpret_cast<std::uint64_t*>(bytes);
#pragma GCC unroll 4
  for (int t = 0; t < kTogether; ++t) {
    Words a = join(words[t][0], words[t][1]), b = join(words[t][2], words[t][3]);
    exchange_halves<1>(a, b, typename MakeLanes<W>::type{});
    store<W>(to + 2 * t * W, a);
    store<W>(to + (2 * t + 1) * W, b);
  }
}

#if !defined(GOSSAMER_AVX512)

constexpr int B = kLanes<std::uint8_t>;

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

/// Marks the bytes of a block above hi. Those, and those in [lo, hi].
GOSSAMER_INLINE Split mark_bytes(const std::uint8_t* bytes, const std::uint8_t* within,
                                 std::uint8_t lo, std::uint8_t hi, std::uint8_t* mask) {
  std::uint64_t above = 0, others = 0;
#if defined(GOSSAMER_AVX512)
  const std::uint64_t valid = within == nullptr ? ~std::uint64_t{0} : nonzero_bytes(within);
  const __m512i x = _mm512_load_si512(bytes);
  above = _mm512_cmpgt_epu8_mask(x, _mm512_set1_epi8(static_cast<char>(hi))) & valid;
  others = _mm512_cmpge_epu8_mask(x, _mm512_set1_epi8(static_cast<char>(lo))) & valid;
  _mm512_storeu_si512(mask, _mm512_maskz_mov_epi8(above, _mm512_set1_epi8(1)));
#else
#pragma GCC unroll 4
  for (int i = 0; i < kBlock; i += B) {
    const Vec<std::uint8_t> x = load<B>(bytes + i);
    auto greater = reinterpret_cast<Vec<std::uint8_t> >(x > hi);
    auto equal = reinterpret_cast<Vec<std::uint8_t> >(x >= lo);
    if (within != nullptr) {
      const auto valid = reinterpret_cast<Vec<std::uint8_t> >(load<B>(within + i) != 0);
      greater &= valid;
      equal &= valid;
    }
    store<B>(mask + i, greater & std::uint8_t{1});
    above |= high_bits(greater) << i;
    others |= high_bits(equal) << i;
  }
#endif
  return {above, others & ~above};
}

}  // namespace

void random_scan(const RandomScanArgs& a);
void random_scan(const RandomScanArgs& args) {
  const RandomScanArgs a = args;  // masks of bytes could alias it
  const auto lo = static_cast<std::uint8_t>(a.lo >> kTailBits);
  const auto hi = static_cast<std::uint8_t>(a.hi >> kTailBits);
  const Generator heads(a.seed, a.step, a.first / kBlockBytes);
  // Blocks begin at elements that 64 divides; numbers count from `first`.
  const int skip = static_cast<int>(a.first % kBlock);
  auto counter = static_cast<std::uint32_t>((a.first - skip) / kBlockBytes);
  alignas(64) std::uint8_t bytes[kRandomTile + kStep], part[kBlock];
  // The sets of what bytes leave undecided, and which of them are not empty.
  constexpr int kBlocks = (kRandomTile + kStep) / kBlock;
  std::uint64_t open[kBlocks];
  alignas(64) std::uint8_t some[(kBlocks + kBlock - 1) / kBlock * kBlock] = {};
  int blocks = 0;
  std::int64_t above = 0;
  for (std::int64_t i = -skip; i < a.count; i += kStep, counter += kStep / kBlockBytes) {
    const std::uint8_t* x = bytes + skip + i;
    make_bytes(heads, counter, bytes + skip + i);
    if (i >= 0 && i + kStep <= a.count) {
#pragma GCC unroll 8
      for (int b = 0; b < kStep; b += kBlock) {
        const Split found = mark_bytes(x + b, a.within == nullptr ? nullptr : a.within + i + b, lo,
                                       hi, a.mask == nullptr ? part : a.mask + i + b);
        above += bits_in(found.above);
        open[blocks] = found.inside;
        some[blocks++] = found.inside != 0 ? 1 : 0;
      }
      continue;
    }
    for (int b = 0; b < kStep; b += kBlock) {
      const std::int64_t at = i + b, begin = at < 0 ? 0 : at, end = min_i64(a.count, at + kBlock);
      alignas(64) std::uint8_t within[kBlock] = {};
      for (std::int64_t e = begin; e < end; ++e) {
        within[e - at] = a.within == nullptr ? 1 : a.within[e];
      }
      const Split found = mark_bytes(x + b, within, lo, hi, part);
      for (std::int64_t e = begin; a.mask != nullptr && e < end; ++e) a.mask[e] = part[e - at];
      above += bits_in(found.above);
      open[blocks] = found.inside;
      some[blocks++] = found.inside != 0 ? 1 : 0;
    }
  }

  // The byte over the number.
  std::uint32_t list[kRandomTile + kBlock];
  int listed = 0;
  for (int first = 0; first < blocks; first += kBlock) {
    for (std::uint64_t left = nonzero_bytes(some + first); left != 0; left &= left - 1) {
      const int b = first + __builtin_ctzll(left);
      std::uint64_t set = open[b];
      const int n = bits_in(set);
      const auto entry = [&] {
        const int i = b * kBlock + __builtin_ctzll(set | std::uint64_t{1} << 63);
        set &= set - 1;
        return static_cast<std::uint32_t>(bytes[i]) << kNumberBits |
               static_cast<std::uint32_t>(i - skip);
      };
      // Most have one or two: these need no branch that is hard to predict.
      list[listed] = entry();
      list[listed + 1] = entry();
      for (int e = 2; e < n; ++e) list[listed + e] = entry();
      listed += n;
    }
  }

  const Generator tails(a.seed, a.step, kKeyTails + a.first);
  constexpr std::uint32_t kNumbers = (1u << kNumberBits) - 1;
  constexpr int kTails = kTogether * W;
  std::int64_t inside = 0;
  for (int i = 0; i < kTails; ++i) list[listed + i] = 0;
  for (int i = 0; i < listed; i += kTails) {
    const std::uint32_t* entries = list + i;
    Words low[kTogether], words[kTogether][4];
    for (int t = 0; t < kTogether; ++t) {
      const auto numbers = load<W>(entries + t * W) & kNumbers;
      low[t] = __builtin_convertvector(numbers + static_cast<std::uint32_t>(a.first), Words);
    }
    tails(low, words);
    alignas(64) std::uint64_t tail[kTails];
    for (int t = 0; t < kTogether; ++t) store<W>(tail + t * W, words[t][0]);
    for (int e = 0; e < kTails && i + e < listed; ++e) {
      const std::uint32_t number = entries[e] & kNumbers;
      const std::uint64_t key = std::uint64_t{entries[e] >> kNumberBits} << kTailBits |
                                static_cast<std::uint32_t>(tail[e]);
      const bool greater = key > a.hi;
      if (a.mask != nullptr) a.mask[number] = greater ? 1 : 0;
      above += greater ? 1 : 0;
      a.stored[inside] = key << kNumberBits | (a.base + number);
      inside += key >= a.lo && !greater ? 1 : 0;
    }
  }
  *a.above = above;
  *a.inside = inside;
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
