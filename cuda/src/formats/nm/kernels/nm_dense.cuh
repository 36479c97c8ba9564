#pragma once

// Converts between dense matrices and N:M. A thread has eight neighbouring groups of a line, whose
// positions fill whole bytes. Values are moved as unsigned integers of their size.

#include "base/kernels/pack.cuh"
#include "formats/nm/kernels/nm_positions.cuh"

namespace gossamer::cuda {

inline constexpr int kNmDenseThreads = 128;
inline constexpr int kNmDenseGroups = 8;

struct NmDenseArgs {
  NmLines a;  // of the pack, without values and indices
  void* values;
  std::uint8_t* indices;
  std::int64_t eights;  // parts of a line, of eight groups each
  void* dense;          // element e of line l is dense[l*line + e*step]
  std::int64_t line, step;
  const std::uint8_t* mask;  // may be null
  std::int64_t mask_line, mask_step;
  unsigned long long* bad;  // the first group with more than n to keep, counted through the lines
};

/// Where thread `i` of the grid has its groups. Neighbouring threads have neighbours in the dense
/// matrix: of one line where its elements are contiguous, else of neighbouring lines.
struct NmPlace {
  std::int64_t line, group0, group1;
  bool none;
};

__device__ inline NmPlace nm_place(const NmDenseArgs& a) {
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * kNmDenseThreads + static_cast<int>(threadIdx.x);
  const bool along = a.step == 1;
  const std::int64_t line = along ? i / a.eights : i % a.a.lines;
  const std::int64_t part = along ? i % a.eights : i / a.a.lines;
  const std::int64_t group0 = part * kNmDenseGroups, groups = a.a.length / a.a.m;
  return {.line = line,
          .group0 = group0,
          .group1 = least(group0 + kNmDenseGroups, groups),
          .none = i >= a.eights * a.a.lines};
}

template <class U>
__global__ void __launch_bounds__(kNmDenseThreads) nm_pack_groups(NmDenseArgs a) {
  const NmPlace place = nm_place(a);
  if (place.none) return;
  const U* const dense = static_cast<const U*>(a.dense) + place.line * a.line;
  const std::uint8_t* const mask = a.mask == nullptr ? nullptr : a.mask + place.line * a.mask_line;
  U* to = static_cast<U*>(a.values) + place.line * a.a.slots + place.group0 * a.a.n;
  std::uint8_t* bytes =
      a.indices + place.line * a.a.index_bytes + place.group0 / kNmDenseGroups * (a.a.n * a.a.bits);
  unsigned word = 0;  // positions that do not fill a byte yet
  int filled = 0;
  for (std::int64_t group = place.group0; group < place.group1; ++group) {
    const std::int64_t first = group * a.a.m;
    const auto keeps = [&](int e) {
      if (mask != nullptr) return mask[(first + e) * a.mask_step] != 0;
      return static_cast<U>(dense[(first + e) * a.step] << 1) != 0;
    };
    // Looked at once, so that another writer of the matrix cannot make an invalid one.
    unsigned all = 0;
    for (int e = 0; e < a.a.m; ++e) all |= keeps(e) ? 1u << e : 0u;
    const int count = __popc(all);
    if (count > a.a.n) {
      const auto number =
          static_cast<unsigned long long>(place.line * (a.a.length / a.a.m) + group);
      atomicMin(a.bad, number);
    }
    int spare = a.a.n - count;  // positions that get a zero
    int left = a.a.n;
    for (int e = 0; e < a.a.m && left > 0; ++e) {
      const bool kept = (all >> e & 1u) != 0;
      if (!kept && spare <= 0) continue;
      spare -= kept ? 0 : 1;
      --left;
      *to++ = kept ? dense[(first + e) * a.step] : U(0);
      word |= static_cast<unsigned>(e) << filled;
      for (filled += a.a.bits; filled >= 8; filled -= 8) {
        *bytes++ = static_cast<std::uint8_t>(word);
        word >>= 8;
      }
    }
  }
  if (filled > 0) *bytes = static_cast<std::uint8_t>(word);
}

template <class U>
__global__ void __launch_bounds__(kNmDenseThreads) nm_unpack_groups(NmDenseArgs a) {
  const NmPlace place = nm_place(a);
  if (place.none) return;
  U* const dense = static_cast<U*>(a.dense) + place.line * a.line;
  const U* const values = static_cast<const U*>(a.a.values) + place.line * a.a.slots;
  const std::uint8_t* const positions = a.a.indices + place.line * a.a.index_bytes;
  for (std::int64_t group = place.group0; group < place.group1; ++group) {
    std::int64_t slot = group * a.a.n;
    const std::int64_t end = slot + a.a.n;
    for (int e = 0; e < a.a.m; ++e) {
      const bool here = slot < end && nm_position(positions, slot, a.a.bits) == e;
      dense[(group * a.a.m + e) * a.step] = here ? values[slot] : U(0);
      slot += here ? 1 : 0;
    }
  }
}

}  // namespace gossamer::cuda
