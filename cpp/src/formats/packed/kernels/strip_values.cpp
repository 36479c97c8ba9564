// Values of row order for the "strips" layout. Strip by strip and group by group, the next entries
// of 16 rows are loaded, one vector each, transposed in registers, and stored one step behind the
// other; the next step overwrites the lanes that a step has too many.

#include "formats/packed/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int kRows = 16;

/// The entries of each row of a group, in the order of the group. Lane l takes part in the steps
/// whose count is above l.
GOSSAMER_INLINE Vec<std::uint8_t, kRows> row_lengths(const std::uint8_t* counts, int steps) {
  const Vec<std::uint8_t, kRows> lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Vec<std::uint8_t, kRows> lengths = {};
  for (int step = 0; step < steps; ++step) {
    lengths -= reinterpret_cast<Vec<std::uint8_t, kRows>>(lanes < counts[step]);  // true is −1
  }
  return lengths;
}

/// Steps [first, min(first+Steps, steps)) of a group.
template <int Steps, class T>
GOSSAMER_INLINE T* place_steps(const T* const* from, const std::uint8_t* counts, int first,
                               int steps, T* to) {
  const auto left = static_cast<unsigned>(steps - first < kRows ? steps - first : kRows);
  std::uint8_t taken[kRows];  // by each step; of steps that are none, 0
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(taken),
      _mm_maskz_loadu_epi8(static_cast<__mmask16>(0xffffU >> (kRows - left)), counts + first));
  Vec<T, kRows> r[kRows];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) r[i] = load<kRows>(from[i] + first);
  transpose_registers<kRows>(r);
#pragma GCC unroll 16
  for (int i = 0; i < Steps; ++i) {
    store<kRows>(to, r[i]);
    to += taken[i];
  }
  return to;
}

template <class T>
void place_values(const StripValuesArgs& a) {
  const StripGroup* group = a.group;
  const std::uint8_t* counts = a.counts;
  const T* const source = static_cast<const T*>(a.source);
  T* to = static_cast<T*>(a.to);
  T* const end = static_cast<T*>(a.end);
  constexpr int kLine = 64 / sizeof(T);
  for (std::int64_t i = 0; i < a.strips * a.groups; ++i, ++group) {
    const int steps = group->steps;
    if (steps == 0) continue;
    std::uint8_t lengths[kRows];
    store<kRows>(lengths, row_lengths(counts, steps));
    std::int64_t* const next = a.next + std::int64_t{group->order} * kRows;
    // The last row of the group lies furthest.
    const std::int64_t last = next[min_i64(kRows, a.rows - std::int64_t{group->order} * kRows) - 1];
    const int read = (steps + kRows - 1) / kRows * kRows;
    const T* from[kRows];
    for (int r = 0; r < kRows; ++r) {
      const int lane = group->place[r];
      from[lane] = source + next[r];
      next[r] += lengths[lane];
      // The row's part in the next strip, which no prefetcher foresees.
      for (int ahead = 0; ahead < read; ahead += kLine) {
        __builtin_prefetch(from[lane] + lengths[lane] + kLine + ahead);
      }
    }
    if (last + read <= a.nnz && end - to >= kRows * read) {
      int step = 0;
      for (; step + 8 < steps; step += kRows) {
        to = place_steps<kRows>(from, counts, step, steps, to);
      }
      if (step < steps) to = place_steps<8>(from, counts, step, steps, to);
    } else {
      for (int step = 0; step < steps; ++step) {
        for (int lane = 0; lane < counts[step]; ++lane) *to++ = from[lane][step];
      }
    }
    counts += steps;
  }
}

}  // namespace

void strip_values(const StripValuesArgs& a);
void strip_values(const StripValuesArgs& a) {
  a.size == 2 ? place_values<std::uint16_t>(a) : place_values<std::uint32_t>(a);
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
