#pragma once

// Sixteen lanes at every instruction set level, in as many vectors as the level needs: sums have
// the same bits everywhere.

#include "simd/simd.h"

namespace gossamer::detail {
namespace {

template <class T>
struct Lanes16 {
  static constexpr int W = min_int(kLanes<T>, 16);
  static constexpr int kParts = 16 / W;
  Vec<T, W> part[kParts];

  static GOSSAMER_INLINE Lanes16 zero() {
    Lanes16 v;
    for (int p = 0; p < kParts; ++p) v.part[p] = Vec<T, W>{};
    return v;
  }
  static GOSSAMER_INLINE Lanes16 at(const T* from) {
    Lanes16 v;
    for (int p = 0; p < kParts; ++p) v.part[p] = load<W>(from + p * W);
    return v;
  }
  GOSSAMER_INLINE void to(T* out) const {
    for (int p = 0; p < kParts; ++p) store<W>(out + p * W, part[p]);
  }
  friend GOSSAMER_INLINE Lanes16 larger(const Lanes16& a, const Lanes16& b) {
    Lanes16 v;
    for (int p = 0; p < kParts; ++p) v.part[p] = a.part[p] > b.part[p] ? a.part[p] : b.part[p];
    return v;
  }
  friend GOSSAMER_INLINE Lanes16 smaller(const Lanes16& a, const Lanes16& b) {
    Lanes16 v;
    for (int p = 0; p < kParts; ++p) v.part[p] = a.part[p] > b.part[p] ? b.part[p] : a.part[p];
    return v;
  }
  /// Lane by lane: y where a ≥ x, else z.
  friend GOSSAMER_INLINE Lanes16 where_reaches(const Lanes16& a, const Lanes16& x, const Lanes16& y,
                                               const Lanes16& z) {
    Lanes16 v;
    for (int p = 0; p < kParts; ++p) v.part[p] = a.part[p] >= x.part[p] ? y.part[p] : z.part[p];
    return v;
  }
  friend GOSSAMER_INLINE Lanes16 operator+(const Lanes16& a, const Lanes16& b) {
    Lanes16 v;
    for (int p = 0; p < kParts; ++p) v.part[p] = a.part[p] + b.part[p];
    return v;
  }
  friend GOSSAMER_INLINE Lanes16 operator-(const Lanes16& a, const Lanes16& b) {
    Lanes16 v;
    for (int p = 0; p < kParts; ++p) v.part[p] = a.part[p] - b.part[p];
    return v;
  }

  /// Adds lanes i and i + 8, then i and i + 4, i + 2, i + 1.
  [[nodiscard]] GOSSAMER_INLINE T sum() const {
    T lane[16];
    to(lane);
    Vec<T, 4> half[2];
    half[0] = load<4>(lane) + load<4>(lane + 8);
    half[1] = load<4>(lane + 4) + load<4>(lane + 12);
    const Vec<T, 4> four = half[0] + half[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
  }
};

}  // namespace
}  // namespace gossamer::detail
