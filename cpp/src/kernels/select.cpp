// Passes of exact selection over many elements, 64 at a time. Each reads its elements once, in the
// order in which they lie; what it leaves undecided it stores or counts for the operation.

#include "kernels/philox.h"
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

template <Mode M, class K>
void scan(const SelectScanArgs& a) {
  using S = typename StoredKey<K>::type;
  const K lo = static_cast<K>(a.lo), hi = static_cast<K>(a.hi);
  S* keys_out = static_cast<S*>(a.keys);
  std::int64_t above = 0, inside = 0;
  const std::int64_t capacity = keys_out == nullptr ? -1 : a.capacity;
  for_blocks<M, K>(a.source, [&](const auto& keys, std::uint64_t valid, std::int64_t i, int n) {
    const Split found = split(keys, lo, hi);
    mark(a.mask, i, n, found.above & valid);
    above += bits_in(found.above & valid);
    const std::uint64_t set = found.inside & valid;
    if (inside <= capacity) {
      append<true>(keys, set, keys_out + inside, a.indices + inside, static_cast<std::uint32_t>(i));
    }
    inside += bits_in(set);
  });
  *a.above = above;
  *a.inside = inside;
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
    if constexpr (decltype(mode)::value != Mode::word) {
      for_blocks<decltype(mode)::value, K>(
          source, [&](const auto& keys, std::uint64_t valid, std::int64_t, int) {
            nans += bits_in(split(keys, top, top).inside & valid);
          });
    }
  });
  *a.nans = nans;
}

void random_words(const RandomWordsArgs& a);
void random_words(const RandomWordsArgs& a) {
  constexpr int kGroups = 64;
  std::int64_t i = 0;
  const auto one = [&] {
    a.out[i] = random_word(a.seed, a.step, a.first + static_cast<std::uint64_t>(i));
  };
  for (; i < a.count && ((a.first + static_cast<std::uint64_t>(i)) & 3) != 0; ++i) one();
  for (; i + 4 * kGroups <= a.count; i += 4 * kGroups) {
    // Word by word, so that the rounds run over vectors of counters.
    alignas(64) std::uint32_t words[4][kGroups];
    const std::uint64_t counter = (a.first + static_cast<std::uint64_t>(i)) >> 2;
    for (int c = 0; c < kGroups; ++c) {
      const Philox r = philox(counter + static_cast<std::uint64_t>(c), a.step, a.seed);
      for (int word = 0; word < 4; ++word) words[word][c] = r.word[word];
    }
    for (int c = 0; c < kGroups; ++c) {
      for (int word = 0; word < 4; ++word) a.out[i + 4 * c + word] = words[word][c];
    }
  }
  for (; i < a.count; ++i) one();
}

}  // namespace gossamer::kernels::GOSSAMER_ISA_NAMESPACE
