// N:M matrices from and to dense ones, group by group. Lines that are columns are taken some at a
// time, so that what is read and written of the dense matrix are whole cache lines.

#include "formats/nm/args.h"
#include "simd/positions.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

constexpr int kMostM = 32;
/// Lines that are taken together where they are columns.
constexpr std::int64_t kTogether = 64;
/// Positions that are unpacked at a time.
constexpr std::int64_t kChunk = 512;

/// All bits but the sign, so that -0 is zero.
template <class U>
constexpr U kValueBits = static_cast<U>(static_cast<U>(~U{0}) >> 1);

/// Writes numbers of a few bits one after the other.
struct BitWriter {
  std::uint8_t* to;
  std::uint64_t bits;
  int count;

  GOSSAMER_INLINE void put(unsigned value, int width) {
    bits |= static_cast<std::uint64_t>(value) << count;
    count += width;
    if (count >= 32) {
      const auto low = static_cast<std::uint32_t>(bits);
      __builtin_memcpy(to, &low, 4);
      to += 4;
      bits >>= 32;
      count -= 32;
    }
  }
  GOSSAMER_INLINE void finish() {
    for (; count > 0; count -= 8, bits >>= 8) *to++ = static_cast<std::uint8_t>(bits);
  }
};

/// The elements of one group that are kept, first of all; false where they are more than n.
template <int M, class U>
GOSSAMER_INLINE bool pack_group(const NmPackArgs& a, const U* x, const std::uint8_t* mask,
                                U* values, BitWriter& positions) {
  const int m = M == 0 ? static_cast<int>(a.m) : M, n = static_cast<int>(a.n);
  U value[kMostM + 1];
  std::uint8_t place[kMostM + 1];
  int count = 0;
  for (int i = 0; i < m; ++i) {
    const U element = x[i * a.step];
    const bool kept = mask != nullptr ? mask[i * a.mask_step] != 0 : (element & kValueBits<U>) != 0;
    value[count] = element;
    place[count] = static_cast<std::uint8_t>(i);
    count += kept;
  }
  if (count > n) return false;
  if (count < n) {
    // The first of the others get a zero.
    std::uint32_t used = 0;
    U at[kMostM];
    for (int i = 0; i < count; ++i) {
      used |= std::uint32_t{1} << place[i];
      at[place[i]] = value[i];
    }
    int missing = n - count, slot = 0;
    for (int i = 0; slot < n; ++i) {
      const bool kept = (used >> i & 1) != 0;
      if (!kept && missing == 0) continue;
      missing -= !kept;
      value[slot] = kept ? at[i] : U{0};
      place[slot++] = static_cast<std::uint8_t>(i);
    }
  }
  for (int s = 0; s < n; ++s) {
    values[s] = value[s];
    positions.put(place[s], a.bits);
  }
  return true;
}

template <int M, class U>
void pack(const NmPackArgs& a) {
  const auto* dense = static_cast<const U*>(a.dense);
  auto* values = static_cast<U*>(a.values);
  const std::int64_t slots = a.groups * a.n;
  // Rows one by one; columns side by side.
  const std::int64_t together = a.step == 1 ? 1 : kTogether;
  for (std::int64_t line = a.line0; line < a.line1; line += together) {
    const std::int64_t lines = min_i64(together, a.line1 - line);
    BitWriter positions[kTogether];
    for (std::int64_t l = 0; l < lines; ++l) {
      positions[l] = {a.indices + (line + l) * a.index_bytes, 0, 0};
    }
    for (std::int64_t g = 0; g < a.groups; ++g) {
      for (std::int64_t l = line; l < line + lines; ++l) {
        const std::uint8_t* mask =
            a.mask == nullptr ? nullptr : a.mask + l * a.mask_line + g * a.m * a.mask_step;
        if (!pack_group<M>(a, dense + l * a.line + g * a.m * a.step, mask,
                           values + l * slots + g * a.n, positions[l - line])) {
          *a.bad = l * a.groups + g;
          return;
        }
      }
    }
    for (std::int64_t l = 0; l < lines; ++l) positions[l].finish();
  }
  *a.bad = -1;
}

template <class U>
void pack_of(const NmPackArgs& a) {
  a.m == 4 ? pack<4, U>(a) : a.m == 8 ? pack<8, U>(a) : pack<0, U>(a);
}

template <int Bits, class U>
void unpack(const NmUnpackArgs& a) {
  auto* dense = static_cast<U*>(a.dense);
  const auto* values = static_cast<const U*>(a.values);
  const std::int64_t slots = a.groups * a.n, length = a.groups * a.m;
  // Whole groups whose positions begin with a byte.
  const std::int64_t some = kChunk / (8 * a.n) > 0 ? kChunk / (8 * a.n) * 8 : 8;
  std::uint8_t place[8 * kMostM > kChunk ? 8 * kMostM : kChunk];
  const std::int64_t together = a.step == 1 ? 1 : kTogether;
  for (std::int64_t line = a.line0; line < a.line1; line += together) {
    const std::int64_t end = min_i64(line + together, a.line1);
    for (std::int64_t g = 0; g < a.groups; g += some) {
      const std::int64_t last = min_i64(a.groups, g + some);
      for (std::int64_t e = g * a.m; e < last * a.m && e < length; ++e) {
        U* to = dense + line * a.line + e * a.step;
        if (together == 1) {
          *to = 0;
        } else {
          for (std::int64_t l = 0; l < end - line; ++l) to[l * a.line] = 0;
        }
      }
      for (std::int64_t l = line; l < end; ++l) {
        read_positions<Bits>(a.indices + l * a.index_bytes + g * a.n * Bits / 8, (last - g) * a.n,
                             place);
        const U* from = values + l * slots;
        const std::uint8_t* position = place;
        for (std::int64_t group = g; group < last; ++group) {
          U* to = dense + l * a.line + group * a.m * a.step;
          for (std::int64_t s = 0; s < a.n; ++s) {
            to[*position++ * a.step] = from[group * a.n + s];
          }
        }
      }
    }
  }
}

template <int Bits>
bool lines_are_valid(const NmCheckStructureArgs& a) {
  // Chunks are whole groups whose positions begin with a byte.
  const std::int64_t some = kChunk / (8 * a.n) > 0 ? kChunk / (8 * a.n) * (8 * a.n) : 8 * a.n;
  std::uint8_t place[1 + (8 * kMostM > kChunk ? 8 * kMostM : kChunk)] = {};
  std::uint8_t follows[8 * kMostM > kChunk ? 8 * kMostM : kChunk];
  for (std::int64_t s = 0; s < some; ++s) follows[s] = s % a.n != 0;
  const auto most = static_cast<std::uint8_t>(a.m - 1);
  for (std::int64_t l = a.line0; l < a.line1; ++l) {
    for (std::int64_t s = 0; s < a.slots; s += some) {
      const std::int64_t count = min_i64(some, a.slots - s);
      read_positions<Bits>(a.indices + l * a.index_bytes + s * Bits / 8, count, place + 1);
      std::uint8_t bad = 0;
      for (std::int64_t i = 0; i < count; ++i) {
        const int beyond = place[i + 1] > most, unsorted = place[i + 1] <= place[i];
        bad = static_cast<std::uint8_t>(bad | beyond | (unsorted & follows[i]));
      }
      if (bad != 0) return false;
    }
  }
  return true;
}

}  // namespace

void nm_pack_lines(const NmPackArgs& a);
void nm_pack_lines(const NmPackArgs& a) {
  switch (a.size) {
    case 2:
      return pack_of<std::uint16_t>(a);
    case 4:
      return pack_of<std::uint32_t>(a);
    default:
      return pack_of<std::uint64_t>(a);
  }
}

void nm_unpack_lines(const NmUnpackArgs& a);
void nm_unpack_lines(const NmUnpackArgs& a) {
  with_bits(a.bits, [&](auto bits) {
    constexpr int kBits = decltype(bits)::value;
    switch (a.size) {
      case 2:
        return unpack<kBits, std::uint16_t>(a);
      case 4:
        return unpack<kBits, std::uint32_t>(a);
      default:
        return unpack<kBits, std::uint64_t>(a);
    }
  });
}

void nm_check_lines(const NmCheckStructureArgs& a);
void nm_check_lines(const NmCheckStructureArgs& a) {
  with_bits(a.bits, [&](auto bits) { *a.valid = lines_are_valid<decltype(bits)::value>(a); });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
