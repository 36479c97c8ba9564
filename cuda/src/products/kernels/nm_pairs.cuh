#pragma once

// N:M values as operands of sparse tensor cores, which take two values for each four neighbours of
// a row. At most two values of every four neighbours are stored where n is 1 or 2 and m is 4, 8, 16
// or 32, and where A is 1:2. Values are taken by pairs, which 2:m has one of in m neighbours, 1:m
// one in 2m, and so two 32-bit words, each with the values of four neighbours, come from one pair.
//
// A thread has half a line of a slice, 32 elements of A. Copies bring its values and positions to
// where the operands are going to be; when they have arrived, it replaces them, by way of a table
// that has for the positions of a pair in eight neighbours what PRMT selects for two words. Zeros
// fill what is not stored: sums that are not finite may have met an infinity there, and are
// computed again.

#include "base/kernels/pack.cuh"
#include "base/ptx.cuh"
#include "formats/nm/kernels/nm_positions.cuh"

namespace gossamer::cuda {

/// Elements of A that a thread has of a slice, and the values of a line that stand for them.
inline constexpr int kNmHalf = 32, kNmHalfStored = kNmHalf / 2;
/// Where a thread has its values and positions of a slice; neighbours have neighbouring lines,
/// which are in different banks.
__device__ inline int nm_row(int thread) { return thread / 32 * 16 + thread % 16; }
__device__ inline int nm_half(int thread) { return thread / 16 % 2; }

/// Two positions among eight neighbours, 8 if a value is not among them. Each entry is there for
/// every lane of half a warp, so that lanes read from different banks.
inline constexpr int kNmPlaces = 9, kNmCopies = 16;
inline constexpr int kNmTableBytes = kNmPlaces * kNmPlaces * kNmCopies * 8;

/// What PRMT selects from a pair of values for the two words of eight neighbours, 16 bits each, and
/// above these the positions within each four that mma.sp takes, the lower one first. Those of
/// zeros are 0 before a value and 3 behind it.
__device__ inline std::uint64_t nm_table_entry(int p, int q) {
  std::uint32_t selectors = 0x44444444, positions = 0xcc;
  const auto put = [&](int position, int place, std::uint32_t bytes) {
    selectors ^= (bytes ^ 0x44u) << (8 * place);
    const auto within = static_cast<std::uint32_t>(position % 4);
    positions ^= (place % 2 == 0 ? within : 3 - within) << (2 * place);
  };
  if (p < 8) put(p, p / 4 * 2 + (p % 4 == 3 ? 1 : 0), 0x10);
  // Pairs beyond the matrix have equal positions, and zeros.
  if (q < 8 && (p > q ? p == 8 : p < q)) {
    put(q, q / 4 * 2 + (q % 4 == 3 || (p < 8 && p / 4 == q / 4) ? 1 : 0), 0x32);
  }
  return static_cast<std::uint64_t>(positions) << 32 | selectors;
}

/// Replaces pairs of `Pair` elements at `to` by operands of mma.sp, and returns the positions of
/// these. `codes` begins with the positions of the first pair.
template <int Pair, class T>
__device__ __forceinline__ std::uint32_t spread_pairs(const NmLines& a, std::uint32_t codes,
                                                      int half, const std::uint64_t* table, T* to) {
  constexpr int kPairs = Pair > kNmHalf ? 1 : kNmHalf / Pair;
  auto* const words = reinterpret_cast<std::uint32_t*>(to);
  const auto pairs = load_pack<kPairs>(words);
  const std::uint32_t mask = (1u << a.bits) - 1;
  // Of 1:m the second value of a pair is in the second group.
  const std::uint32_t second = a.n == 1 ? static_cast<std::uint32_t>(a.m) : 0;
  const auto within = [&](std::uint32_t position, int first) {
    const std::uint32_t place = position - static_cast<std::uint32_t>(first);
    return static_cast<int>(Pair == 8 ? place : least(place, 8u));  // those before are above 8, too
  };
  Pack<std::uint32_t, 4> stored[2];
  std::uint32_t positions = 0, p = 0, q = 0;
#pragma unroll
  for (int eight = 0; eight < kNmHalf / 8; ++eight) {
    const int first = Pair > kNmHalf ? kNmHalf * half + 8 * eight : 8 * eight % Pair;
    if (8 * eight % Pair == 0) {
      p = codes & mask;
      q = (codes >> a.bits & mask) | second;
      codes >>= 2 * a.bits;
    }
    const std::uint64_t entry =
        table[(within(p, first) * kNmPlaces + within(q, first)) * kNmCopies];
    const auto selectors = static_cast<std::uint32_t>(entry);
    const std::uint32_t pair = pairs.at[8 * eight / Pair];
    stored[eight / 2].at[eight % 2 * 2] = __byte_perm(pair, 0, selectors);
    stored[eight / 2].at[eight % 2 * 2 + 1] = __byte_perm(pair, 0, selectors >> 16);
    positions += static_cast<std::uint32_t>(entry >> 32) << (8 * eight);
  }
  store_pack(words, stored[0]);
  store_pack(words + 4, stored[1]);
  return positions;
}

/// How pairs of values are copied.
struct NmPairCut {
  int pair;         // the elements of a line that one covers
  int slice_slots;  // the values of a slice
  int half_slots;   // those that a thread copies: of 1:32, both halves need the same pair
  bool wide;        // whether they can be copied at once, and positions four bytes at a time
};

/// Where a thread has its half of each slice of a line.
template <class T>
struct NmHalves {
  const T* values;            // of the line
  const std::uint8_t* codes;  // its positions
  int start, end;             // its slots from the first slice's half on, and how many there are
  int half;

  __device__ NmHalves(const NmLines& a, const NmPairCut& cut, std::int64_t row, int half_)
      : values(static_cast<const T*>(a.values) + row * a.slots),
        codes(a.indices + row * a.index_bytes),
        start(cut.pair > kNmHalf ? 0 : half_ * cut.half_slots),
        end(row < a.lines ? static_cast<int>(a.slots) : 0),
        half(half_) {}

  /// Brings a slice's values to `to`, 32 bytes, and 8 bytes that have their positions to
  /// `positions`.
  __device__ __forceinline__ void copy(const NmLines& a, const NmPairCut& cut, int slice, T* to,
                                       std::uint32_t* positions) const {
    const int slot = start + slice * cut.slice_slots, bit = slot * a.bits, byte = bit / 32 * 4;
    if (cut.wide) {
      const T* const from = values + slot;
      const bool valid = slot < end;
      if (cut.pair <= 8) {
        cp_async<16>(to, from, valid);
        if (cut.pair == 4) cp_async<16>(to + 8, from + 8, valid);
      } else if (cut.pair == 16) {
        cp_async<8>(to, from, valid);
      } else {
        cp_async<4>(to, from, valid);
      }
      cp_async<4>(positions, codes + byte, valid);
      cp_async<4>(positions + 1, codes + byte + 4,
                  valid && bit % 32 + cut.half_slots * a.bits > 32);
      return;
    }
#pragma unroll 1
    for (int i = 0; i < cut.half_slots; ++i) to[i] = slot + i < end ? values[slot + i] : T(0.0f);
#pragma unroll 1
    for (int i = 0; i < 8; ++i) {
      const bool valid = slot < end && byte + i < a.index_bytes;
      reinterpret_cast<std::uint8_t*>(positions)[i] = valid ? codes[byte + i] : std::uint8_t{0};
    }
  }

  /// Replaces what `copy` brought by operands of mma.sp, whose positions are one word.
  __device__ __forceinline__ void spread(const NmLines& a, const NmPairCut& cut, int slice,
                                         const std::uint64_t* table, T* to,
                                         std::uint32_t* positions) const {
    const auto bit = static_cast<unsigned>((start + slice * cut.slice_slots) * a.bits);
    const auto from = load_pack<2>(positions);
    std::uint32_t bits = __funnelshift_r(from.at[0], from.at[1], bit % 32);
    if (cut.pair == 4) {
      // Values are where they belong; a position's bit becomes two, of neighbours 0 and 1 or 2, 3.
      bits &= 0xffffu;
      bits = (bits | bits << 8) & 0x00ff00ffu;
      bits = (bits | bits << 4) & 0x0f0f0f0fu;
      bits = (bits | bits << 2) & 0x33333333u;
      *positions = ((bits | bits << 1) & 0x55555555u) | 0x88888888u;
    } else if (cut.pair == 8) {
      *positions = spread_pairs<8>(a, bits, half, table, to);
    } else if (cut.pair == 16) {
      *positions = spread_pairs<16>(a, bits, half, table, to);
    } else if (cut.pair == 32) {
      *positions = spread_pairs<32>(a, bits, half, table, to);
    } else {
      *positions = spread_pairs<64>(a, bits, half, table, to);
    }
  }
};

}  // namespace gossamer::cuda
