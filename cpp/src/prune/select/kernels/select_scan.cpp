// The passes of exact selection over large arrays (docs/selection.md), a block of 64 elements at a
// time: sample, scan, histogram, mark. Each reads its elements once, in memory order;
// cpp/src/prune/select/selector.cpp decides which passes run.

#include "prune/select/args.h"
#include "simd/keys.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
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

/// What a scan finds.
struct Found {
  std::int64_t marked = 0, inside = 0;
  bool nan = false;
};

/// Appends candidates for the elements in `set`; from[i] is the key of element i minus lo. May
/// write up to 64 entries.
template <class K>
GOSSAMER_INLINE void append_candidates(const K (&from)[kBlock], int shift, std::uint64_t set,
                                       std::uint32_t base, std::uint32_t* to) {
  const auto candidate = [&](int i) {
    return static_cast<std::uint32_t>(from[i] >> shift) << kCandidateBits |
           (base + static_cast<std::uint32_t>(i));
  };
  // Most sets have at most two elements. Always writing two avoids a branch on how many there are.
#pragma GCC unroll 2
  for (int e = 0; e < 2; ++e) {
    *to++ = candidate(__builtin_ctzll(set | std::uint64_t{1} << 63));
    set &= set - 1;
  }
  for (; set != 0; set &= set - 1) *to++ = candidate(__builtin_ctzll(set));
}

#if defined(GOSSAMER_AVX512)

template <class K>
GOSSAMER_INLINE __m512i subtract(__m512i x, __m512i y) {
  if constexpr (sizeof(K) == 2) return _mm512_sub_epi16(x, y);
  if constexpr (sizeof(K) == 4) return _mm512_sub_epi32(x, y);
  if constexpr (sizeof(K) == 8) return _mm512_sub_epi64(x, y);
}

/// Scans all whole blocks with the keys kept in registers; returns the number of elements scanned.
template <Mode M, class K, bool Store>
GOSSAMER_INLINE std::int64_t scan_blocks(const SelectScanArgs& a, Found& found) {
  constexpr int W = kLanes<K>, kVectors = kBlock / W;
  constexpr auto all = static_cast<LaneSet<K>>(~std::uint64_t{0});
  const KeyMap<K> map = key_map<K>(a.source.order);
  const K* data = static_cast<const K*>(a.source.data);
  const __m512i lo = set_all(static_cast<K>(a.lo)), mark_above = set_all(static_cast<K>(a.mark));
  const __m512i width = set_all(static_cast<K>(a.hi - a.lo)), nan = set_all(map.nan);
  alignas(64) K from[kBlock];
  LaneSet<K> numbers[kVectors];
  for (int v = 0; v < kVectors; ++v) numbers[v] = all;
  std::int64_t i = 0;
  for (; i + kBlock <= a.source.count; i += kBlock) {
    const std::uint64_t valid = counted(a.source, i);
    LaneSet<K> over[kVectors], under[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const auto keys = reinterpret_cast<__m512i>(keys_of<M, K, W>(load<W>(data + i + v * W), map));
      numbers[v] = lanes_unequal<K>(numbers[v], keys, nan);
      over[v] = lanes_above<K>(all, keys, mark_above);
      const __m512i rest = subtract<K>(keys, lo);
      under[v] = lanes_above<K, true>(all, width, rest);
      if constexpr (Store) _mm512_store_si512(from + v * W, rest);
    }
    const std::uint64_t above = join<K>(over) & valid;
    mark(a.mask, i, kBlock, above);
    found.marked += bits_in(above);
    const std::uint64_t inside = join<K>(under) & valid;
    if (Store && found.inside <= a.capacity) {
      append_candidates(from, a.shift, inside, a.base + static_cast<std::uint32_t>(i),
                        a.candidates + found.inside);
    }
    found.inside += bits_in(inside);
  }
  for (int v = 0; v < kVectors; ++v) found.nan |= numbers[v] != all;
  return i;
}

#endif

template <Mode M, class K>
void scan(const SelectScanArgs& a) {
  const K lo = static_cast<K>(a.lo), hi = static_cast<K>(a.hi), mark_above = static_cast<K>(a.mark);
  constexpr int W = kLanes<K>;
  const K nan = key_map<K>(a.source.order).nan;
  Vec<K, W> nans = {};
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
    const Split block = split(keys, lo, hi, mark_above);
    mark(a.mask, first + i, n, block.above & valid);
    found.marked += bits_in(block.above & valid);
    const std::uint64_t set = block.inside & valid;
    if (set != 0 && found.inside <= capacity) {
      alignas(64) K from[kBlock];
      for (int e = 0; e < kBlock; ++e) from[e] = static_cast<K>(keys[e] - lo);
      append_candidates(from, a.shift, set, a.base + static_cast<std::uint32_t>(first + i),
                        a.candidates + found.inside);
    }
    found.inside += bits_in(set);
    if (a.nan != nullptr) {
      for (int e = 0; e < kBlock; e += W) {
        nans |= reinterpret_cast<Vec<K, W>>(load<W>(&keys[e]) == broadcast<W>(nan));
      }
    }
  });
  for (int i = 0; i < W; ++i) found.nan |= nans[i] != 0;
  *a.marked = found.marked;
  *a.inside = found.inside;
  if (a.nan != nullptr) *a.nan = found.nan;
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

/// Counts the slots in kHistograms histograms by turns, so that an increment need not wait for the
/// previous store to the same bin.
GOSSAMER_INLINE void add_slots(const std::uint32_t* slots, int n, std::uint32_t* bins) {
  int i = 0;
  for (; i + kHistograms <= n; i += kHistograms) {
#pragma GCC unroll 4
    for (int h = 0; h < kHistograms; ++h) ++bins[h * kSelectBins + static_cast<int>(slots[i + h])];
  }
  for (; i < n; ++i) ++bins[slots[i]];
}

template <Mode M, class K>
void histogram(const SelectHistogramArgs& a) {
  constexpr int kSlots = 512;
  const K lo = static_cast<K>(a.lo), hi = static_cast<K>(a.hi);
  alignas(64) std::uint32_t slots[kSlots + kBlock];
  int n = 0;
  for_blocks<M, K>(a.source, [&](const auto& keys, std::uint64_t valid, std::int64_t, int) {
    const std::uint64_t set = split(keys, lo, hi).inside & valid;
    if (set == 0) return;
    alignas(64) std::uint32_t own[kBlock];
    for (int e = 0; e < kBlock; ++e) {
      own[e] = static_cast<std::uint32_t>(static_cast<K>(keys[e] - lo) >> a.shift);
    }
    if (set == ~std::uint64_t{0}) {
      __builtin_memcpy(slots + n, own, sizeof own);
    } else {
      append<false>(own, set, slots + n, nullptr, 0);
    }
    n += bits_in(set);
    if (n >= kSlots) {
      add_slots(slots, n, a.bins);
      n = 0;
    }
  });
  add_slots(slots, n, a.bins);
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
  const auto count = [&](auto key) {
    using K = typename decltype(key)::type;
    constexpr K top = static_cast<K>(~K{0});
    // x is NaN where |x| is, so one mode serves both.
    for_blocks<Mode::magnitude, K>(source,
                                   [&](const auto& keys, std::uint64_t valid, std::int64_t, int) {
                                     nans += bits_in(split(keys, top, top).inside & valid);
                                   });
  };
  switch (source.order.type) {
    case DType::f64:
      count(Type<std::uint64_t>{});
      break;
    case DType::f16:
    case DType::bf16:
      count(Type<std::uint16_t>{});
      break;
    default:
      count(Type<std::uint32_t>{});
      break;
  }
  *a.nans = nans;
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
