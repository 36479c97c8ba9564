#pragma once

// k of the entries of each segment of an array, for segments that one block or one warp selects
// from by itself. The keys are read once into registers where they fit, else once a pass, mostly
// from a cache.

#include "prune/kernels/select_scan.cuh"

namespace gossamer::cuda {

/// Elements that a thread of a block keeps.
inline constexpr int kRowOwn = 16;
inline constexpr int kRowThreads = 256, kLongRowThreads = 1024;
/// Segments of lengths or k of their own that one launch takes.
inline constexpr int kRowList = 128;
/// Segments that a warp selects from.
inline constexpr int kGroupOwn = 8, kGroupLength = 32 * kGroupOwn, kGroupWarps = 8;

struct SelectRowsArgs {
  SelectPart part;
  std::int64_t rows;    // segments of this launch
  std::int64_t length;  // of all but the last, where they are alike; 0 where they are listed
  std::int64_t k;
  bool tie_high;
  std::int64_t first[kRowList + 1];  // where listed segments begin
  std::int64_t ks[kRowList];
};

struct SelectRow {
  std::int64_t first, count, k;
};

__device__ inline SelectRow row_at(const SelectRowsArgs& a, std::int64_t row) {
  if (a.length == 0) return {a.first[row], a.first[row + 1] - a.first[row], a.ks[row]};
  const std::int64_t first = row * a.length;
  return {first, least(a.length, a.part.count - first), a.k};
}

__device__ inline bool is_eligible(const SelectPart& part, std::int64_t i) {
  return part.within == nullptr || part.within[i] != 0;
}

/// A block a segment.
template <class K, int Threads>
__global__ void __launch_bounds__(Threads)
    select_rows(const __grid_constant__ SelectRowsArgs a, KeyMap<K> map) {
  __shared__ unsigned bins[kBins];
  __shared__ Count low, high, rest, found;
  const SelectRow row = row_at(a, blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t first = row.first + thread;
  const bool kept = row.count <= Threads * kRowOwn;
  K own[kRowOwn];
  unsigned eligible = 0;
  if (kept) {
#pragma unroll
    for (int e = 0; e < kRowOwn; ++e) {
      own[e] = 0;
      if (thread + e * Threads >= row.count) continue;
      const std::int64_t i = first + e * Threads;
      own[e] = key_at(a.part, map, i);
      if (is_eligible(a.part, i)) eligible |= 1u << e;
    }
  }
  // Calls f(element, key, whether it may be selected) for rows of one element a thread, in order;
  // beyond the end for elements that may not.
  const auto each = [&](auto&& f) {
    if (kept) {
#pragma unroll
      for (int e = 0; e < kRowOwn; ++e) {
        if (e * Threads < row.count) f(thread + e * Threads, own[e], (eligible >> e & 1u) != 0);
      }
      return;
    }
    for (std::int64_t i = thread; i - thread < row.count; i += Threads) {
      const bool inside = i < row.count;
      f(i, inside ? key_at(a.part, map, row.first + i) : K{0},
        inside && is_eligible(a.part, row.first + i));
    }
  };
  K lo = 0, hi = map.top;
  Count rank = static_cast<Count>(row.k), ties = 0;
  while (lo != hi && rank > 0) {
    const int length = bit_length(static_cast<Count>(hi) - lo);
    const int shift = length > kBinBits ? length - kBinBits : 0;
    for (int i = thread; i < kBins; i += Threads) bins[i] = 0;
    if (thread == 0) {  // where fewer may be selected than k, all are
      low = high = lo;
      rest = rank;
      found = 0;
    }
    __syncthreads();  // orders the zeros before the counts
    each([&](std::int64_t, K key, bool may) {
      if (may && key >= lo && key <= hi)
        atomicAdd(bins + static_cast<int>((key - lo) >> shift), 1u);
    });
    __syncthreads();  // orders the counts before their reads
    const BlockSums<Threads, kBins / Threads> sums(
        [&](int i) { return Count{bins[kBins - 1 - i]}; });
    sums.find(rank - 1, [&](int i, Count above, Count count) {
      const Count begin = static_cast<Count>(lo) + (static_cast<Count>(kBins - 1 - i) << shift);
      const Count end = begin + ((Count{1} << shift) - 1);
      low = begin;
      high = end < static_cast<Count>(hi) ? end : static_cast<Count>(hi);
      rest = rank - above;
      found = count;
    });
    __syncthreads();  // orders the bin before its reads
    lo = static_cast<K>(low);
    hi = static_cast<K>(high);
    rank = rest;
    ties = found;
    __syncthreads();  // orders these reads before the next round's writes
  }
  std::uint8_t* mask = a.part.mask + row.first;
  if (row.k <= 0 || ties <= rank) {
    each([&](std::int64_t i, K key, bool may) {
      if (i < row.count) mask[i] = row.k > 0 && may && key >= lo ? 1 : 0;
    });
    return;
  }
  const auto cut = static_cast<unsigned>(a.tie_high ? ties - rank : rank);
  unsigned before = 0;
  each([&](std::int64_t i, K key, bool may) {
    const bool tie = may && key == lo;
    unsigned all = 0;
    const unsigned order = before + block_prefix<Threads>(tie ? 1u : 0u, &all);
    before += all;
    const bool selected = tie ? (order < cut) != a.tie_high : may && key > lo;
    if (i < row.count) mask[i] = selected ? 1 : 0;
  });
}

/// A warp a segment of at most kGroupLength elements: the k-th key is found bit by bit.
template <class K>
__global__ void __launch_bounds__(32 * kGroupWarps)
    select_groups(const __grid_constant__ SelectRowsArgs a, KeyMap<K> map) {
  const std::int64_t at =
      static_cast<std::int64_t>(blockIdx.x) * kGroupWarps + static_cast<int>(threadIdx.x) / 32;
  if (at >= a.rows) return;
  const SelectRow row = row_at(a, at);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto count = static_cast<int>(row.count);
  const auto k = static_cast<unsigned>(row.k);
  K keys[kGroupOwn];
  unsigned may = 0;
#pragma unroll
  for (int e = 0; e < kGroupOwn; ++e) {
    keys[e] = 0;
    if (lane + 32 * e >= count) continue;
    const std::int64_t i = row.first + lane + 32 * e;
    keys[e] = key_at(a.part, map, i);
    if (is_eligible(a.part, i)) may |= 1u << e;
  }
  const auto from = [&](K least_key) {
    unsigned own = 0;
#pragma unroll
    for (int e = 0; e < kGroupOwn; ++e) own += (may >> e & 1u) != 0 && keys[e] >= least_key ? 1 : 0;
    return __reduce_add_sync(kAllLanes, own);
  };
  K threshold = 0;
  for (K bit = map.sign; bit != 0; bit >>= 1) {
    if (from(threshold | bit) >= k) threshold |= bit;
  }
  const unsigned above = threshold == map.top ? 0 : from(static_cast<K>(threshold + 1));
  const unsigned ties = from(threshold) - above, take = k - above;
  const unsigned cut = ties <= take ? (a.tie_high ? 0 : ties) : (a.tie_high ? ties - take : take);
  unsigned before = 0;
#pragma unroll
  for (int e = 0; e < kGroupOwn; ++e) {
    const bool own = (may >> e & 1u) != 0;
    const unsigned tied = __ballot_sync(kAllLanes, own && keys[e] == threshold);
    const unsigned order = before + static_cast<unsigned>(__popc(tied & ((1u << lane) - 1)));
    before += static_cast<unsigned>(__popc(tied));
    const bool selected =
        k > 0 && own &&
        (keys[e] > threshold || (keys[e] == threshold && (order < cut) != a.tie_high));
    if (lane + 32 * e < count) a.part.mask[row.first + lane + 32 * e] = selected ? 1 : 0;
  }
}

/// Results of segments [segment, segment + rows) of the masked elements' scores.
struct SelectKthArgs {
  SelectRowsArgs rows;
  std::int64_t segment;
  void* threshold;  // float32, or float64 where keys have 64 bits
  std::int64_t *n_strict, *n_tie;
  DType type;  // of the elements that keys are made of
};

/// The number that a key was made of, without which of both zeros it was.
__device__ inline double number_of(unsigned long long key, const KeyMap<unsigned long long>& map,
                                   DType /*type*/) {
  if (key == map.nan) return NAN;
  const unsigned long long plain = key ^ map.flip;
  const auto bits = plain >= map.sign ? plain - map.sign : map.sign | (map.sign - plain);
  return __longlong_as_double(static_cast<long long>(bits));
}
__device__ inline float number_of(unsigned key, const KeyMap<unsigned>& map, DType type) {
  if (key == map.nan) return NAN;
  const unsigned plain = key ^ map.flip;
  const unsigned bits = plain >= map.sign ? plain - map.sign : map.sign | (map.sign - plain);
  if (type == DType::f32) return __uint_as_float(bits);
  const auto narrow = static_cast<std::uint16_t>(bits);
  return load_number(&narrow, type, 0);
}

/// A warp finds the least selected key of a segment, and how many are above it.
template <class K>
__global__ void __launch_bounds__(32 * kGroupWarps, 3)
    select_kth(const __grid_constant__ SelectKthArgs a, KeyMap<K> map) {
  const std::int64_t at =
      static_cast<std::int64_t>(blockIdx.x) * kGroupWarps + static_cast<int>(threadIdx.x) / 32;
  if (at >= a.rows.rows) return;
  const SelectRow row = row_at(a.rows, at);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  K low = map.top;
#pragma unroll 1
  for (std::int64_t i = row.first + lane; i < row.first + row.count; i += 32) {
    if (a.rows.part.mask[i] != 0) low = least(low, key_at(a.rows.part, map, i));
  }
  for (int step = 16; step > 0; step /= 2) {
    low = least(low, __shfl_xor_sync(kAllLanes, low, step));
  }
  unsigned above = 0;
#pragma unroll 1
  for (std::int64_t i = row.first + lane; i < row.first + row.count; i += 32) {
    above += a.rows.part.mask[i] != 0 && key_at(a.rows.part, map, i) > low ? 1 : 0;
  }
  above = __reduce_add_sync(kAllLanes, above);
  if (lane != 0) return;
  const std::int64_t to = a.segment + at;
  static_cast<typename ScoreOf<K>::type*>(a.threshold)[to] = number_of(low, map, a.type);
  a.n_strict[to] = above;
  a.n_tie[to] = row.k - above;
}

struct PackBitsArgs {
  const std::uint8_t* bytes;
  std::int64_t count;
  std::uint8_t* out;
  bool big;
};

/// Packs bytes that are 0 or 1 into bits, 8 a thread.
static __global__ void __launch_bounds__(kMaskThreads) select_pack(PackBitsArgs a) {
  const std::int64_t at =
      static_cast<std::int64_t>(blockIdx.x) * kMaskThreads + static_cast<int>(threadIdx.x);
  if (at * 8 >= a.count) return;
  unsigned bits = 0;
  for (int e = 0; e < 8 && at * 8 + e < a.count; ++e) {
    bits |= static_cast<unsigned>(a.bytes[at * 8 + e]) << (a.big ? 7 - e : e);
  }
  a.out[at] = static_cast<std::uint8_t>(bits);
}

/// What is taken of rows [rows][cols]: their marked elements and these elements' columns.
template <class U>
struct TakeRowsArgs {
  const std::uint8_t* mask;
  const U* from;
  std::int64_t rows, cols, k;
  U* values;
  int* columns;
};

/// A warp takes the k marked elements of a row.
template <class U>
__global__ void __launch_bounds__(32 * kGroupWarps) select_take(TakeRowsArgs<U> a) {
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * kGroupWarps + static_cast<int>(threadIdx.x) / 32;
  if (row >= a.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  std::int64_t place = row * a.cols + lane, to = row * a.k;
#pragma unroll 4
  for (std::int64_t left = a.cols; left > 0; left -= 32) {
    const bool taken = lane < left && a.mask[place] != 0;
    const unsigned votes = __ballot_sync(kAllLanes, taken);
    if (taken) {
      const std::int64_t at = to + __popc(votes & ((1u << lane) - 1));
      a.values[at] = a.from[place];
      a.columns[at] = static_cast<int>(a.cols - left) + lane;
    }
    place += 32;
    to += __popc(votes);
  }
}

}  // namespace gossamer::cuda
