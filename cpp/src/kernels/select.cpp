// Passes of exact selection over many elements, 64 at a time. Each reads its elements once, in the
// order in which they lie; what it leaves undecided it stores or counts for the operation.

#include "kernels/select_keys.h"
#include "kernels/table.h"

namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE {
namespace {

template <Mode M, class K>
void sample(const SelectSampleArgs& a) {
  using S = typename StoredKey<K>::type;
  constexpr int kChunks = kBlock / kSampleChunk;
  constexpr std::int64_t kAhead = 16;
  const KeyMap<K> map = key_map<K>(a.source.order);
  const K* data = static_cast<const K*>(a.source.data);
  S* to = static_cast<S*>(a.keys);
  std::int64_t count = 0;
  for (std::int64_t c = 0; c < a.chunks; c += kChunks) {
    alignas(64) K part[kBlock] = {};
    alignas(64) K keys[kBlock];
    alignas(64) std::uint8_t within[kBlock] = {};
    const int chunks = static_cast<int>(min_i64(kChunks, a.chunks - c));
    for (int i = 0; i < chunks; ++i) {
      const std::int64_t at = a.positions[c + i];
      __builtin_prefetch(data + a.positions[min_i64(c + i + kAhead, a.chunks - 1)]);
      __builtin_memcpy(part + i * kSampleChunk, data + at, kSampleChunk * sizeof(K));
      if (a.source.within == nullptr) {
        __builtin_memset(within + i * kSampleChunk, 1, kSampleChunk);
      } else if (a.source.within_bits) {
        for (int e = 0; e < kSampleChunk; ++e) {
          const auto byte = static_cast<unsigned>(a.source.within[(at + e) / 8]);
          within[i * kSampleChunk + e] = static_cast<std::uint8_t>(byte >> ((at + e) % 8) & 1u);
        }
      } else {
        __builtin_memcpy(within + i * kSampleChunk, a.source.within + at, kSampleChunk);
      }
    }
    block_keys<M, K>(part, map, keys);
    const std::uint64_t valid = nonzero_bytes(within);
    append<false>(keys, valid, to + count, nullptr, 0);
    count += bits_in(valid);
  }
  *a.count = count;
}

/// What a pass over blocks finds.
struct Found {
  std::int64_t above = 0, inside = 0;
};

/// Appends the candidates of a set. Writes up to 64.
template <class K>
GOSSAMER_INLINE void append_candidates(const K (&keys)[kBlock], K lo, int shift, std::uint64_t set,
                                       std::uint32_t base, std::uint32_t* to) {
  for (; set != 0; set &= set - 1) {
    const int i = __builtin_ctzll(set);
    const auto from = static_cast<std::uint32_t>(static_cast<K>(keys[i] - lo) >> shift);
    *to++ = from << kCandidateBits | (base + static_cast<std::uint32_t>(i));
  }
}

#if defined(GOSSAMER_AVX512)

/// Appends the candidates among the lanes of a register of keys; `set` has a bit for each.
template <class K>
GOSSAMER_INLINE std::uint32_t* append_found(__m512i keys, __m512i lo, __m128i shift,
                                            std::uint64_t set, std::uint32_t base,
                                            std::uint32_t* to) {
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i number = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(base)));
  if constexpr (sizeof(K) == 2) {
    const __m512i from = _mm512_srl_epi16(_mm512_sub_epi16(keys, lo), shift);
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(from));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(from, 1));
    const auto first = static_cast<__mmask16>(set), second = static_cast<__mmask16>(set >> 16);
    const __m512i x = _mm512_or_si512(_mm512_slli_epi32(low, kCandidateBits), number);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(first, x));
    to += bits_in(first);
    const __m512i y = _mm512_or_si512(_mm512_slli_epi32(high, kCandidateBits),
                                      _mm512_add_epi32(number, _mm512_set1_epi32(16)));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(second, y));
    return to + bits_in(second);
  } else if constexpr (sizeof(K) == 4) {
    const __m512i from = _mm512_srl_epi32(_mm512_sub_epi32(keys, lo), shift);
    const __m512i x = _mm512_or_si512(_mm512_slli_epi32(from, kCandidateBits), number);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(set), x));
  } else {
    const __m512i from = _mm512_srl_epi64(_mm512_sub_epi64(keys, lo), shift);
    const __m256i x =
        _mm256_or_si256(_mm256_slli_epi32(_mm512_cvtepi64_epi32(from), kCandidateBits),
                        _mm512_castsi512_si256(number));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_maskz_compress_epi32(static_cast<__mmask8>(set), x));
  }
  return to + bits_in(set);
}

/// Whole blocks, their keys in registers throughout; returns how many elements they have.
template <Mode M, class K, bool Store>
GOSSAMER_INLINE std::int64_t scan_blocks(const SelectScanArgs& a, Found& found) {
  constexpr int W = kLanes<K>, kVectors = kBlock / W;
  constexpr std::uint64_t kAll = ~std::uint64_t{0} >> (64 - W);
  constexpr auto all = static_cast<LaneSet<K>>(kAll);
  const KeyMap<K> map = key_map<K>(a.source.order);
  const K* data = static_cast<const K*>(a.source.data);
  const __m512i lo = set_all(static_cast<K>(a.lo)), hi = set_all(static_cast<K>(a.hi));
  const __m128i shift = _mm_cvtsi32_si128(a.shift);
  std::uint32_t* to = a.candidates;
  std::int64_t i = 0;
  for (; i + kBlock <= a.source.count; i += kBlock) {
    const std::uint64_t valid = counted(a.source, i);
    __m512i keys[kVectors];
    LaneSet<K> over[kVectors], from[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      keys[v] = reinterpret_cast<__m512i>(keys_of<M, K, W>(load<W>(data + i + v * W), map));
      over[v] = lanes_above<K>(all, keys[v], hi);
      from[v] = lanes_above<K, true>(all, keys[v], lo);
    }
    const std::uint64_t above = join<K>(over) & valid;
    const std::uint64_t inside = join<K>(from) & valid & ~above;
    mark(a.mask, i, kBlock, above);
    found.above += bits_in(above);
    const std::int64_t before = found.inside;
    found.inside += bits_in(inside);
    if constexpr (Store) {
      if (before > a.capacity) continue;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        to = append_found<K>(keys[v], lo, shift, inside >> (v * W) & kAll,
                             a.base + static_cast<std::uint32_t>(i + v * W), to);
      }
    }
  }
  return i;
}

#endif

template <Mode M, class K>
void scan(const SelectScanArgs& a) {
  const K lo = static_cast<K>(a.lo), hi = static_cast<K>(a.hi);
  Found found;
  std::int64_t first = 0;
  SelectScanArgs rest = a;
#if defined(GOSSAMER_AVX512)
  first = a.candidates != nullptr ? scan_blocks<M, K, true>(a, found)
                                  : scan_blocks<M, K, false>(a, found);
  rest.source.data = static_cast<const K*>(a.source.data) + first;
  if (a.source.within != nullptr) rest.source.within += a.source.within_bits ? first / 8 : first;
  rest.source.count -= first;
#endif
  const std::int64_t capacity = a.candidates == nullptr ? -1 : a.capacity;
  for_blocks<M, K>(rest.source, [&](const auto& keys, std::uint64_t valid, std::int64_t i, int n) {
    const Split block = split(keys, lo, hi);
    mark(a.mask, first + i, n, block.above & valid);
    found.above += bits_in(block.above & valid);
    const std::uint64_t set = block.inside & valid;
    if (found.inside <= capacity) {
      append_candidates(keys, lo, a.shift, set, a.base + static_cast<std::uint32_t>(first + i),
                        a.candidates + found.inside);
    }
    found.inside += bits_in(set);
  });
  *a.above = found.above;
  *a.inside = found.inside;
}

template <Mode M, class K>
void list_keys(const SelectKeysArgs& a) {
  using S = typename StoredKey<K>::type;
  S* to = static_cast<S*>(a.keys);
  std::int64_t stored = 0;
  if (a.indices == nullptr) {
    for_blocks<M, K>(a.source, [&](const auto& keys, std::uint64_t valid, std::int64_t, int) {
      append<false>(keys, valid, to + stored, nullptr, 0);
      stored += bits_in(valid);
    });
  } else {
    const KeyMap<K> map = key_map<K>(a.source.order);
    const K* data = static_cast<const K*>(a.source.data);
    for (; stored < a.count; stored += kBlock) {
      const int n = static_cast<int>(min_i64(kBlock, a.count - stored));
      alignas(64) K part[kBlock] = {};
      alignas(64) K keys[kBlock];
      for (int i = 0; i < n; ++i) part[i] = data[a.indices[stored + i]];
      block_keys<M, K>(part, map, keys);
      append<false>(keys, ~std::uint64_t{0}, to + stored, nullptr, 0);
    }
    stored = a.count;
  }
  *a.stored = stored;
}

template <Mode M, class K>
void histogram(const SelectHistogramArgs& a) {
  const K lo = static_cast<K>(a.lo), width = static_cast<K>(a.hi - a.lo);
  std::uint32_t* bins[2] = {a.bins, a.bins + kSelectBins + 8};
  for_blocks<M, K>(a.source, [&](const auto& keys, std::uint64_t valid, std::int64_t, int) {
    alignas(64) K slot[kBlock];
    for (int e = 0; e < kBlock; ++e) {
      const K from = static_cast<K>(keys[e] - lo);
      slot[e] = static_cast<K>(from <= width ? from >> a.shift : K{kSelectBins});
    }
    if (valid == ~std::uint64_t{0}) {
      // Two histograms by turns: an increment need not wait for the last one's store.
      for (int e = 0; e < kBlock; e += 2) {
        ++bins[0][slot[e]];
        ++bins[1][slot[e + 1]];
      }
    } else {
      for (; valid != 0; valid &= valid - 1) ++bins[0][slot[__builtin_ctzll(valid)]];
    }
  });
}

template <Mode M, class K>
void mark_all(const SelectMarkArgs& a) {
  const K threshold = static_cast<K>(a.threshold);
  std::int64_t skip = a.skip, take = a.take;
  for_blocks<M, K>(a.source, [&](const auto& keys, std::uint64_t valid, std::int64_t i, int n) {
    const Split found = split(keys, threshold, threshold);
    std::uint64_t set = found.above & valid;
    if (take > 0) set |= slice(found.inside & valid, skip, take);
    mark(a.mask, i, n, set);
  });
}

}  // namespace

void select_sample(const SelectSampleArgs& a);
void select_sample(const SelectSampleArgs& a) {
  with_keys(a.source.order, [&](auto key, auto mode) {
    sample<decltype(mode)::value, typename decltype(key)::type>(a);
  });
}

void select_scan(const SelectScanArgs& a);
void select_scan(const SelectScanArgs& a) {
  with_keys(a.source.order, [&](auto key, auto mode) {
    scan<decltype(mode)::value, typename decltype(key)::type>(a);
  });
}

void select_keys(const SelectKeysArgs& a);
void select_keys(const SelectKeysArgs& a) {
  with_keys(a.source.order, [&](auto key, auto mode) {
    list_keys<decltype(mode)::value, typename decltype(key)::type>(a);
  });
}

void select_histogram(const SelectHistogramArgs& a);
void select_histogram(const SelectHistogramArgs& a) {
  with_keys(a.source.order, [&](auto key, auto mode) {
    histogram<decltype(mode)::value, typename decltype(key)::type>(a);
  });
}

void select_mark(const SelectMarkArgs& a);
void select_mark(const SelectMarkArgs& a) {
  with_keys(a.source.order, [&](auto key, auto mode) {
    mark_all<decltype(mode)::value, typename decltype(key)::type>(a);
  });
}

void select_nans(const SelectNansArgs& a);
void select_nans(const SelectNansArgs& a) {
  KeySource source = a.source;
  source.order.largest = true;
  source.order.nan_high = true;
  std::int64_t nans = 0;
  with_keys(source.order, [&](auto key, auto mode) {
    using K = typename decltype(key)::type;
    constexpr K top = static_cast<K>(~K{0});
    for_blocks<decltype(mode)::value, K>(
        source, [&](const auto& keys, std::uint64_t valid, std::int64_t, int) {
          nans += bits_in(split(keys, top, top).inside & valid);
        });
  });
  *a.nans = nans;
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
