#pragma once

// Exactly k of the entries of a list of arrays, without the host looking on. A sample gives an
// interval [lo, hi] of keys that holds the k-th one, most likely. One pass over the elements marks
// those above the middle of the interval, counts those above hi, and puts those inside, a few
// percent, into a pool. Passes over the pool narrow the interval down to one key, and the marks of
// its entries are put right. What the counts show to be wrong, or too much for the pool, is
// narrowed by passes over all elements instead: the same kernels, which read where to look from
// memory. The last block of a pass to end does what comes between two passes.
//
// Elements are cut into tiles, of which each has its entries of the pool together. Where tiles lie
// in the pool depends on the run; the result does not: ties are counted tile by tile.

#include "base/kernels/pack.cuh"
#include "base/kernels/warp.cuh"
#include "prune/kernels/keys.cuh"

namespace gossamer::cuda {

inline constexpr int kMaskThreads = 256;
/// Neighbouring elements of a thread, and elements of a tile.
inline constexpr int kRun = 16;
inline constexpr int kTile = kMaskThreads * kRun;
inline constexpr int kBins = 2048, kBinBits = 11;
/// Arrays that one launch takes: a kernel's parameters have 4 KiB.
inline constexpr int kSelectParts = 24;
inline constexpr int kMostPasses = 6;  // of 11 bits, for keys of 64
/// Groups of tiles whose ties are added up.
inline constexpr int kTieGroups = 1024;
inline constexpr int kSampleRun = 8;

using Count = unsigned long long;

/// What the kernels of one selection leave for the next ones. Zeros at first.
struct SelectState {
  /// The k-th key is the rank-th of those in [lo, hi]; at the end lo = hi, and rank is how many of
  /// the ties are taken.
  Count lo, hi, rank;
  /// What the scan does: marks keys above `mark`, stores those in [scan_lo, scan_hi].
  Count mark, scan_lo, scan_hi;
  Count above, inside;  // counts of the scan
  Count stored;         // keys of the sample
  Count cut_rank;       // ties before the cut in the tile of the cut
  std::int64_t cut_tile;
  unsigned tickets[kMostPasses + 3];
  bool scans;   // is there an interval to scan for?
  bool pooled;  // are all keys in [lo, hi] in the pool?
};

/// The entries of a tile in the pool.
struct TileEntries {
  unsigned first, count;
};

struct SelectArgs {
  int parts;
  std::int64_t tiles;       // of this launch
  std::int64_t first_tile;  // its first
  std::int64_t all_tiles;   // of all launches
  std::int64_t blocks;      // of all launches of this pass
  std::int64_t k, total;
  bool tie_high;
  prune::MaskFormat format;
  SelectState* state;
  TileEntries* entries;      // [all_tiles]
  unsigned* ties;            // [all_tiles]
  Count* group_ties;         // [kTieGroups], zeros at first
  std::int64_t group_tiles;  // tiles of a group
  Count* bins;               // [kMostPasses][kBins], zeros at first
  void* samples;             // [sample_runs * kSampleRun] keys
  std::int64_t sample_runs;
  void* pool_keys;
  std::uint16_t* pool_places;  // in their tiles
  Count capacity;              // of the pool
};

/// The arrays of a launch, beside what concerns them all.
struct SelectParts {
  SelectPart part[kSelectParts];
};

/// The array that a tile belongs to.
__device__ inline int part_of_tile(const SelectParts& parts, int count, std::int64_t tile) {
  int at = 0;
  for (int i = 1; i < count; ++i) at = parts.part[i].first_tile <= tile ? i : at;
  return at;
}

/// The keys of elements [first, first + kRun) of an array; returns which of them exist and may be
/// selected, a bit for each. `first` is a multiple of kRun.
template <class K>
__device__ inline unsigned load_run(const SelectPart& part, const KeyMap<K>& map,
                                    std::int64_t first, K (&keys)[kRun]) {
  const std::int64_t left = part.count - first;
  if (left <= 0) return 0;
  const int n = static_cast<int>(left < kRun ? left : kRun);
  unsigned valid = 0xffffu >> (kRun - n);
  const bool whole = part.wide && n == kRun;
  if (!part.direct) {
#pragma unroll
    for (int e = 0; e < kRun; ++e) keys[e] = e < n ? key_at<true>(part, map, first + e) : 0;
  } else if (sizeof(K) == 4 && part.score.w_type != DType::f32) {
    const auto* from = static_cast<const std::uint16_t*>(part.score.w) + first;
    if (whole) {
#pragma unroll
      for (int p = 0; p < kRun; p += 8) {
        const auto pack = load_pack<8>(from + p);
#pragma unroll
        for (int e = 0; e < 8; ++e) keys[p + e] = key_of<K>(pack.at[e], part.magnitude, map);
      }
    } else {
#pragma unroll
      for (int e = 0; e < kRun; ++e) {
        keys[e] = e < n ? key_of<K>(from[e], part.magnitude, map) : 0;
      }
    }
  } else {
    constexpr int kPack = 16 / static_cast<int>(sizeof(K));
    const auto* from = static_cast<const K*>(part.score.w) + first;
    if (whole) {
#pragma unroll
      for (int p = 0; p < kRun; p += kPack) {
        const auto pack = load_pack<kPack>(from + p);
#pragma unroll
        for (int e = 0; e < kPack; ++e) keys[p + e] = key_of<K>(pack.at[e], part.magnitude, map);
      }
    } else {
#pragma unroll
      for (int e = 0; e < kRun; ++e) {
        keys[e] = e < n ? key_of<K>(from[e], part.magnitude, map) : 0;
      }
    }
  }
  if (part.within != nullptr) {
    const std::uint8_t* from = part.within + first;
    if (whole) {
      const auto pack = load_pack<kRun>(from);
#pragma unroll
      for (int e = 0; e < kRun; ++e) {
        if (pack.at[e] == 0) valid &= ~(1u << e);
      }
    } else {
      for (int e = 0; e < n; ++e) {
        if (from[e] == 0) valid &= ~(1u << e);
      }
    }
  }
  return valid;
}

/// Writes the marks of elements [first, first + kRun) of an array.
__device__ inline void store_run(const SelectPart& part, prune::MaskFormat format,
                                 std::int64_t first, unsigned marks) {
  const std::int64_t left = part.count - first;
  if (left <= 0 || part.mask == nullptr) return;
  const int n = static_cast<int>(left < kRun ? left : kRun);
  if (format == prune::MaskFormat::bytes) {
    std::uint8_t* to = part.mask + first;
    if (part.wide && n == kRun) {
      Pack<std::uint8_t, kRun> pack;
#pragma unroll
      for (int e = 0; e < kRun; ++e) pack.at[e] = static_cast<std::uint8_t>((marks >> e) & 1u);
      store_pack(to, pack);
    } else {
      for (int e = 0; e < n; ++e) to[e] = static_cast<std::uint8_t>((marks >> e) & 1u);
    }
    return;
  }
  for (int byte = 0; byte < (n + 7) / 8; ++byte) {
    unsigned bits = (marks >> (8 * byte)) & 0xffu;
    if (format == prune::MaskFormat::big) bits = __brev(bits) >> 24;
    part.mask[first / 8 + byte] = static_cast<std::uint8_t>(bits);
  }
}

/// The sum of `value` over the threads of the block before this one; *total gets that of all.
template <int Threads, class N>
__device__ inline N block_prefix(N value, N* total) {
  __shared__ N sums[Threads / 32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  N up_to = value;
  for (unsigned step = 1; step < 32; step *= 2) {
    const N left = __shfl_up_sync(kAllLanes, up_to, step);
    if (lane >= static_cast<int>(step)) up_to += left;
  }
  __syncthreads();  // orders the reads of an earlier call before these writes
  if (lane == 31) sums[warp] = up_to;
  __syncthreads();  // orders the writes of the warps' sums before their reads
  N before = up_to - value, all = 0;
  for (int w = 0; w < Threads / 32; ++w) {
    if (w < warp) before += sums[w];
    all += sums[w];
  }
  *total = all;
  return before;
}

/// N numbers of each thread of a block, and their running sum.
template <int Threads, int N>
class BlockSums {
 public:
  template <class Load>
  __device__ explicit BlockSums(Load&& load) {
    Count sum = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      own_[i] = load(static_cast<int>(threadIdx.x) * N + i);
      sum += own_[i];
    }
    before_ = block_prefix<Threads>(sum, &total_);
  }

  [[nodiscard]] __device__ Count total() const { return total_; }

  /// True for the one thread that has the first number with which the sum exceeds `target`: calls
  /// found(which number, the sum before it, the number).
  template <class Found>
  __device__ void find(Count target, Found&& found) const {
    Count before = before_;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (before <= target && target < before + own_[i]) {
        found(static_cast<int>(threadIdx.x) * N + i, before, own_[i]);
      }
      before += own_[i];
    }
  }

 private:
  Count own_[N], before_, total_;
};

/// Whether this block is the last one of `blocks` to come here. What the others did before is
/// visible to it.
__device__ inline bool is_last_block(unsigned* ticket, std::int64_t blocks) {
  __shared__ bool last;
  __syncthreads();  // orders the block's work before its ticket
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(ticket, 1u) + 1 == static_cast<unsigned>(blocks);
    __threadfence();
  }
  __syncthreads();  // orders the answer before its reads
  return last;
}

__device__ inline int bit_length(Count x) { return 64 - __clzll(static_cast<long long>(x)); }

/// Gathers the keys of short runs of elements, spread evenly with a place of their own in each
/// stride. A thread has one element.
template <class K>
__global__ void __launch_bounds__(kMaskThreads)
    select_sample(const __grid_constant__ SelectArgs a, const __grid_constant__ SelectParts parts,
                  KeyMap<K> map) {
  const std::int64_t slot =
      static_cast<std::int64_t>(blockIdx.x) * kMaskThreads + static_cast<int>(threadIdx.x);
  const std::int64_t run = slot / kSampleRun;
  bool stores = false;
  K key = 0;
  if (run < a.sample_runs) {
    const std::int64_t stride = a.total / a.sample_runs;
    const auto random = static_cast<unsigned>(run) * 2654435761u;
    const std::int64_t spare = stride - kSampleRun;
    const std::int64_t shift =
        spare <= 0 ? 0
                   : static_cast<std::int64_t>((static_cast<Count>(spare) * (random >> 8)) >> 24);
    const std::int64_t element = run * stride + shift + slot % kSampleRun;
    int at = 0;
    for (int i = 1; i < a.parts; ++i) at = parts.part[i].first <= element ? i : at;
    const SelectPart& part = parts.part[at];
    const std::int64_t i = element - part.first;
    // Elements of other launches' arrays are theirs to read.
    stores = i >= 0 && i < part.count && (part.within == nullptr || part.within[i] != 0);
    if (stores) key = key_at<true>(part, map, i);
  }
  const unsigned lanes = __ballot_sync(kAllLanes, stores);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Count base = 0;
  if (lane == 0 && lanes != 0) base = atomicAdd(&a.state->stored, Count{__popc(lanes) + 0u});
  base = __shfl_sync(kAllLanes, base, 0);
  if (stores) {
    static_cast<K*>(a.samples)[base + static_cast<Count>(__popc(lanes & ((1u << lane) - 1)))] = key;
  }
}

inline constexpr int kBracketThreads = 1024;

/// The interval from the sample: the keys four standard deviations of the rank to either side, to
/// 22 bits. One block.
template <class K>
__global__ void __launch_bounds__(kBracketThreads) select_bracket(SelectArgs a, KeyMap<K> map) {
  // Counts of keys by their first digit, and of those with an edge's first digit by the second.
  __shared__ unsigned first_bins[kBins], second_bins[3][kBins];
  __shared__ int digits[3];
  __shared__ Count rests[3], edges[3], ranks[2];
  const int thread = static_cast<int>(threadIdx.x);
  SelectState& state = *a.state;
  const K* samples = static_cast<const K*>(a.samples);
  const Count stored = state.stored;
  const int bits = bit_length(map.top), first = bits - kBinBits;
  const int second = first > kBinBits ? first - kBinBits : 0;
  for (int i = thread; i < kBins; i += kBracketThreads) {
    first_bins[i] = second_bins[0][i] = second_bins[1][i] = second_bins[2][i] = 0;
  }
  if (thread < 3) {
    digits[thread] = -1;
    edges[thread] = thread == 0 ? static_cast<Count>(map.top) : 0;
  }
  if (thread < 2) ranks[thread] = thread == 0 ? 0 : stored;
  __syncthreads();  // orders the zeros before the counts
#pragma unroll 4
  for (Count i = threadIdx.x; i < stored; i += kBracketThreads) {
    atomicAdd(first_bins + static_cast<int>(samples[i] >> first), 1u);
  }
  __syncthreads();  // orders the counts before their reads
  const double n = static_cast<double>(a.sample_runs * kSampleRun);
  const double share = static_cast<double>(a.k) / static_cast<double>(a.total);
  const double middle = n * share, spread = 4 * sqrt(middle * (1 - share)) + 4;
  constexpr int kOwn = kBins / kBracketThreads;
  const BlockSums<kBracketThreads, kOwn> counts(
      [&](int i) { return Count{first_bins[kBins - 1 - i]}; });
  // An edge beyond the sample stays at the end of all keys.
  for (int edge = 0; edge < 3; ++edge) {
    const double at = middle + spread * (edge - 1);
    if (edge == 0 && at < 1) continue;
    counts.find(at < 1 ? 0 : static_cast<Count>(at) - 1, [&](int i, Count before, Count) {
      digits[edge] = kBins - 1 - i;
      rests[edge] = (at < 1 ? 0 : static_cast<Count>(at) - 1) - before;
      if (edge == 0) ranks[0] = before;
      if (edge == 2) ranks[1] = before;
    });
  }
  __syncthreads();  // orders the digits before their reads
  const int width = first - second;
#pragma unroll 4
  for (Count i = threadIdx.x; i < stored; i += kBracketThreads) {
    const K key = samples[i];
    for (int edge = 0; edge < 3; ++edge) {
      if (static_cast<int>(key >> first) != digits[edge]) continue;
      atomicAdd(second_bins[edge] + (static_cast<int>(key >> second) & ((1 << width) - 1)), 1u);
    }
  }
  __syncthreads();  // orders the counts before their reads
  for (int edge = 0; edge < 3; ++edge) {
    const BlockSums<kBracketThreads, kOwn> finer(
        [&](int i) { return Count{second_bins[edge][kBins - 1 - i]}; });
    if (digits[edge] < 0) continue;
    finer.find(rests[edge], [&](int i, Count before, Count count) {
      const Count digit = static_cast<Count>(digits[edge]) << width;
      const Count key = (digit + static_cast<Count>(kBins - 1 - i)) << second;
      edges[edge] = edge == 0 ? key + ((Count{1} << second) - 1) : key;
      if (edge == 0) ranks[0] += before;
      if (edge == 2) ranks[1] += before + count;
    });
  }
  __syncthreads();  // orders the edges before their reads
  if (thread != 0) return;
  state.lo = 0;
  state.hi = map.top;
  state.rank = static_cast<Count>(a.k);
  state.scan_lo = edges[2];
  state.scan_hi = edges[0];
  state.mark = edges[1] > edges[2] ? edges[1] : edges[2];
  // The pool has room for 1/16 of the elements.
  state.scans = stored >= 256 && static_cast<double>(ranks[1] - ranks[0]) * 20 < n;
}

/// The pass over all elements.
template <class K>
__global__ void __launch_bounds__(kMaskThreads)
    select_scan(const __grid_constant__ SelectArgs a, const __grid_constant__ SelectParts parts,
                KeyMap<K> map) {
  __shared__ Count base;
  SelectState& state = *a.state;
  if (!state.scans) return;
  const K lo = static_cast<K>(state.scan_lo), hi = static_cast<K>(state.scan_hi);
  const K mark = static_cast<K>(state.mark);
  const std::int64_t tile = a.first_tile + blockIdx.x;
  const SelectPart& part = parts.part[part_of_tile(parts, a.parts, tile)];
  const std::int64_t first =
      (tile - part.first_tile) * kTile + static_cast<int>(threadIdx.x) * kRun;
  K keys[kRun];
  const unsigned valid = load_run(part, map, first, keys);
  unsigned above = 0, inside = 0, marks = 0;
#pragma unroll
  for (int e = 0; e < kRun; ++e) {
    above |= keys[e] > hi ? 1u << e : 0u;
    inside |= keys[e] >= lo && keys[e] <= hi ? 1u << e : 0u;
    marks |= keys[e] > mark ? 1u << e : 0u;
  }
  above &= valid, inside &= valid;
  store_run(part, a.format, first, marks & valid);
  // Both counts of a tile fit 16 bits.
  const auto own =
      static_cast<unsigned>(__popc(inside)) | (static_cast<unsigned>(__popc(above)) << 16);
  unsigned all = 0;
  const unsigned before = block_prefix<kMaskThreads>(own, &all) & 0xffffu;
  if (threadIdx.x == 0) {
    const unsigned count = all & 0xffffu;
    base = atomicAdd(&state.inside, Count{count});
    atomicAdd(&state.above, Count{all >> 16});
    a.entries[tile] = {static_cast<unsigned>(base), count};
  }
  __syncthreads();  // orders the place in the pool before its reads
  Count to = base + before;
  if (base + (all & 0xffffu) <= a.capacity) {
#pragma unroll
    for (int e = 0; e < kRun; ++e) {
      if ((inside >> e & 1u) != 0) {
        static_cast<K*>(a.pool_keys)[to] = keys[e];
        a.pool_places[to] = static_cast<std::uint16_t>(threadIdx.x * kRun + e);
        ++to;
      }
    }
  }
  if (!is_last_block(state.tickets, a.blocks) || threadIdx.x != 0) return;
  const Count k = static_cast<Count>(a.k);
  const Count beyond = __ldcg(&state.above), within = __ldcg(&state.inside);
  if (k <= beyond) {  // the guess was too low: what is above hi remains
    state.lo = state.scan_hi + 1;
  } else if (k > beyond + within) {
    if (state.scan_lo > 0) state.hi = state.scan_lo - 1;
    state.rank = k - beyond - within;
  } else {
    state.lo = state.scan_lo;
    state.hi = state.scan_hi;
    state.rank = k - beyond;
    state.pooled = within <= a.capacity;
  }
}

/// A thread block's histogram of the keys in [lo, hi], by bins of 2^shift keys. `counts` is in
/// shared memory.
template <class K, int Bins>
struct KeyBins {
  unsigned* counts;
  K lo, hi;
  int shift;

  __device__ KeyBins(unsigned (&shared)[Bins], K low, K high, int bits)
      : counts(shared), lo(low), hi(high), shift(bits) {
    for (int i = static_cast<int>(threadIdx.x); i < Bins; i += kMaskThreads) counts[i] = 0;
    __syncthreads();  // orders the zeros before the counts
  }

  __device__ void add(K key) const {
    if (key >= lo && key <= hi) atomicAdd(counts + static_cast<int>((key - lo) >> shift), 1u);
  }

  /// Adds the keys of the tiles that are the block's.
  __device__ void add_tiles(const SelectArgs& a, const SelectParts& parts,
                            const KeyMap<K>& map) const {
    for (std::int64_t t = blockIdx.x; t < a.tiles; t += gridDim.x) {
      const std::int64_t tile = a.first_tile + t;
      const SelectPart& part = parts.part[part_of_tile(parts, a.parts, tile)];
      K keys[kRun];
      const unsigned valid = load_run(
          part, map, (tile - part.first_tile) * kTile + static_cast<int>(threadIdx.x) * kRun, keys);
#pragma unroll
      for (int e = 0; e < kRun; ++e) {
        if ((valid >> e & 1u) != 0) add(keys[e]);
      }
    }
  }

  /// Adds the counts to those of all blocks.
  __device__ void add_to(Count* bins) const {
    __syncthreads();  // orders the counts before their reads
    for (int i = static_cast<int>(threadIdx.x); i < Bins; i += kMaskThreads) {
      if (counts[i] != 0) atomicAdd(bins + i, Count{counts[i]});
    }
  }
};

/// One narrowing: a histogram of the keys in [lo, hi], of which the last block keeps the bin that
/// has the k-th.
template <class K>
__global__ void __launch_bounds__(kMaskThreads)
    select_narrow(const __grid_constant__ SelectArgs a, const __grid_constant__ SelectParts parts,
                  KeyMap<K> map, int pass) {
  __shared__ unsigned counts[kBins];
  SelectState& state = *a.state;
  const K lo = static_cast<K>(state.lo), hi = static_cast<K>(state.hi);
  if (lo == hi) return;
  const bool pooled = state.pooled;
  const int length = bit_length(static_cast<Count>(hi) - lo);
  const int shift = length > kBinBits ? length - kBinBits : 0;
  const KeyBins<K, kBins> own(counts, lo, hi, shift);
  if (!pooled) {
    own.add_tiles(a, parts, map);
  } else if (a.first_tile == 0) {  // the first launch reads the whole pool
    const K* pool = static_cast<const K*>(a.pool_keys);
    const Count step = Count{gridDim.x} * kMaskThreads;
    for (Count i = Count{blockIdx.x} * kMaskThreads + threadIdx.x; i < state.inside; i += step) {
      own.add(pool[i]);
    }
  }
  Count* bins = a.bins + pass * kBins;
  own.add_to(bins);
  if (!is_last_block(state.tickets + 1 + pass, a.blocks)) return;
  const Count rank = state.rank;
  const BlockSums<kMaskThreads, kBins / kMaskThreads> sums(
      [&](int i) { return __ldcg(bins + kBins - 1 - i); });
  // Where fewer may be selected than k, all are.
  if (threadIdx.x == 0 && sums.total() < rank) state.hi = lo;
  sums.find(rank - 1, [&](int i, Count above, Count) {
    const Count least = static_cast<Count>(lo) + (static_cast<Count>(kBins - 1 - i) << shift);
    const Count most = least + ((Count{1} << shift) - 1);
    state.lo = least;
    state.hi = most < static_cast<Count>(hi) ? most : static_cast<Count>(hi);
    state.rank = rank - above;
  });
}

/// Counts the ties of each tile; the last block finds the tile in which they are cut.
template <class K>
__global__ void __launch_bounds__(kMaskThreads)
    select_ties(const __grid_constant__ SelectArgs a, const __grid_constant__ SelectParts parts,
                KeyMap<K> map) {
  SelectState& state = *a.state;
  const K threshold = static_cast<K>(state.lo);
  const bool pooled = state.pooled;
  for (std::int64_t t = blockIdx.x; t < a.tiles; t += gridDim.x) {
    const std::int64_t tile = a.first_tile + t;
    unsigned own = 0;
    if (pooled) {
      const TileEntries entries = a.entries[tile];
      const K* pool = static_cast<const K*>(a.pool_keys) + entries.first;
      for (unsigned i = threadIdx.x; i < entries.count; i += kMaskThreads) {
        own += pool[i] == threshold ? 1 : 0;
      }
    } else {
      const SelectPart& part = parts.part[part_of_tile(parts, a.parts, tile)];
      K keys[kRun];
      const unsigned valid = load_run(
          part, map, (tile - part.first_tile) * kTile + static_cast<int>(threadIdx.x) * kRun, keys);
#pragma unroll
      for (int e = 0; e < kRun; ++e) own += (valid >> e & 1u) != 0 && keys[e] == threshold ? 1 : 0;
    }
    unsigned all = 0;
    block_prefix<kMaskThreads>(own, &all);
    if (threadIdx.x == 0) {
      a.ties[tile] = all;
      if (all != 0) atomicAdd(a.group_ties + tile / a.group_tiles, Count{all});
    }
  }
  if (!is_last_block(state.tickets + kMostPasses + 1, a.blocks)) return;
  __shared__ Count rest_of_group;
  __shared__ std::int64_t group;
  const BlockSums<kMaskThreads, kTieGroups / kMaskThreads> groups(
      [&](int i) { return __ldcg(a.group_ties + i); });
  // Ties before the cut.
  const Count taken = state.rank < groups.total() ? state.rank : groups.total();
  const Count target = a.tie_high ? groups.total() - taken : taken;
  if (threadIdx.x == 0) group = -1;
  __syncthreads();  // orders this before what a thread finds
  groups.find(target, [&](int i, Count before, Count) {
    group = i;
    rest_of_group = target - before;
  });
  __syncthreads();  // orders the group before its reads
  if (group < 0) {
    if (threadIdx.x == 0) state.cut_tile = a.all_tiles;
    return;
  }
  Count rest = rest_of_group;
  const std::int64_t end = least((group + 1) * a.group_tiles, a.all_tiles);
  constexpr int kOwn = 4;
  for (std::int64_t base = group * a.group_tiles; base < end; base += kOwn * kMaskThreads) {
    const BlockSums<kMaskThreads, kOwn> tiles(
        [&](int i) { return base + i < end ? Count{__ldcg(a.ties + base + i)} : Count{0}; });
    tiles.find(rest, [&](int i, Count before, Count) {
      state.cut_tile = base + i;
      state.cut_rank = rest - before;
    });
    if (rest < tiles.total()) return;
    rest -= tiles.total();
  }
}

/// Puts the marks right: of the pool's elements, or of all.
template <class K>
__global__ void __launch_bounds__(kMaskThreads)
    select_mark(const __grid_constant__ SelectArgs a, const __grid_constant__ SelectParts parts,
                KeyMap<K> map) {
  __shared__ unsigned flips[kTile / 32];
  const SelectState& state = *a.state;
  const K threshold = static_cast<K>(state.lo), marked = static_cast<K>(state.mark);
  const bool bytes = a.format == prune::MaskFormat::bytes;
  const int thread = static_cast<int>(threadIdx.x);
  for (std::int64_t t = blockIdx.x; t < a.tiles; t += gridDim.x) {
    const std::int64_t tile = a.first_tile + t;
    const SelectPart& part = parts.part[part_of_tile(parts, a.parts, tile)];
    if (part.mask == nullptr) continue;
    const std::int64_t begin = (tile - part.first_tile) * kTile;
    const bool cut = tile == state.cut_tile;
    const bool before = tile < state.cut_tile;
    // A tie is selected on one side of the cut.
    const auto tie = [&](Count rank) {
      return (cut ? rank < state.cut_rank : before) != a.tie_high;
    };
    if (!state.pooled) {
      K keys[kRun];
      const std::int64_t first = begin + thread * kRun;
      const unsigned valid = load_run(part, map, first, keys);
      unsigned marks = 0, ties = 0;
#pragma unroll
      for (int e = 0; e < kRun; ++e) {
        marks |= keys[e] > threshold ? 1u << e : 0u;
        ties |= keys[e] == threshold ? 1u << e : 0u;
      }
      marks &= valid, ties &= valid;
      unsigned all = 0;
      unsigned rank = block_prefix<kMaskThreads>(static_cast<unsigned>(__popc(ties)), &all);
      for (int e = 0; e < kRun; ++e) {
        if ((ties >> e & 1u) == 0) continue;
        if (tie(rank)) marks |= 1u << e;
        ++rank;
      }
      store_run(part, a.format, first, marks);
      continue;
    }
    const TileEntries entries = a.entries[tile];
    if (entries.count == 0) continue;
    const K* keys = static_cast<const K*>(a.pool_keys) + entries.first;
    const std::uint16_t* places = a.pool_places + entries.first;
    if (!bytes) {
      for (int i = thread; i < kTile / 32; i += kMaskThreads) flips[i] = 0;
      __syncthreads();  // orders the zeros before the flips
    }
    for (unsigned i = threadIdx.x; i < entries.count; i += kMaskThreads) {
      const K key = keys[i];
      const unsigned place = places[i];
      bool selected = key > threshold;
      if (key == threshold) {
        Count rank = 0;
        if (cut) {
          for (unsigned j = 0; j < entries.count; ++j) {
            rank += keys[j] == threshold && places[j] < place ? 1 : 0;
          }
        }
        selected = tie(rank);
      }
      if (selected == (key > marked)) continue;
      if (bytes) {
        part.mask[begin + place] = selected ? 1 : 0;
      } else {
        atomicXor(flips + place / 32, 1u << (place % 32));
      }
    }
    if (bytes) continue;
    __syncthreads();  // orders the flips before their reads
    for (int i = thread; i < kTile / 8; i += kMaskThreads) {
      unsigned change = (flips[i / 4] >> (i % 4 * 8)) & 0xffu;
      if (a.format == prune::MaskFormat::big) change = __brev(change) >> 24;
      if (change != 0) part.mask[begin / 8 + i] ^= static_cast<std::uint8_t>(change);
    }
    __syncthreads();  // orders these reads before the zeros of the next tile
  }
}

/// *count += the elements that may be selected whose key is `wanted`.
template <class K>
__global__ void __launch_bounds__(kMaskThreads)
    select_equal(const __grid_constant__ SelectArgs a, const __grid_constant__ SelectParts parts,
                 KeyMap<K> map, K wanted, Count* count) {
  for (std::int64_t t = blockIdx.x; t < a.tiles; t += gridDim.x) {
    const std::int64_t tile = a.first_tile + t;
    const SelectPart& part = parts.part[part_of_tile(parts, a.parts, tile)];
    const std::int64_t first =
        (tile - part.first_tile) * kTile + static_cast<int>(threadIdx.x) * kRun;
    K keys[kRun];
    const unsigned valid = load_run(part, map, first, keys);
    unsigned own = 0;
#pragma unroll
    for (int e = 0; e < kRun; ++e) own += (valid >> e & 1u) != 0 && keys[e] == wanted ? 1 : 0;
    unsigned all = 0;
    block_prefix<kMaskThreads>(own, &all);
    if (threadIdx.x == 0 && all != 0) atomicAdd(count, Count{all});
  }
}

/// Bins of a selection over several processes, prune::Selection::kCounts.
inline constexpr int kSharedBins = 4096;

/// bins[(key - lo) >> shift] += 1 for the keys in [lo, hi].
template <class K>
__global__ void __launch_bounds__(kMaskThreads)
    select_bins(const __grid_constant__ SelectArgs a, const __grid_constant__ SelectParts parts,
                KeyMap<K> map, K lo, K hi, int shift, Count* bins) {
  __shared__ unsigned counts[kSharedBins];
  const KeyBins<K, kSharedBins> own(counts, lo, hi, shift);
  own.add_tiles(a, parts, map);
  own.add_to(bins);
}

/// Lets the passes for ties and marks follow that take `rank` of the keys equal to `key`, and all
/// above.
template <class K>
__global__ void __launch_bounds__(1) select_known(SelectState* state, K key, Count rank) {
  state->lo = state->hi = key;
  state->rank = rank;
}

}  // namespace gossamer::cuda
