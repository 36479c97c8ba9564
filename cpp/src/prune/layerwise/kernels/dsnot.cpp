// DSnoT, row by row: writes the key of each column that may grow and of each that may be dropped
// once. Each step then searches both lists for the smallest key, a vector at a time.

#include "prune/layerwise/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

/// The first index in [begin, end) of the smallest key, or -1 where all are +infinity.
template <class T>
std::int64_t smallest(const T* keys, std::int64_t begin, std::int64_t end) {
  constexpr int W = kLanes<T>;
  constexpr T kNone = static_cast<T>(__builtin_inf());
  T least = kNone;
  std::int64_t i = begin;
  if (begin + W <= end) {
    Vec<T> low = broadcast<W>(kNone);
    for (; i + W <= end; i += W) {
      const Vec<T> v = load<W>(keys + i);
      low = v < low ? v : low;
    }
    for (int l = 0; l < W; ++l) least = low[l] < least ? low[l] : least;
  }
  for (; i < end; ++i) least = keys[i] < least ? keys[i] : least;
  if (least == kNone) return -1;
  for (i = begin; keys[i] != least; ++i) {
  }
  return i;
}

template <class T, class S>
void row(const S* w, std::uint8_t* mask, const DsnotArgs& args) {
  constexpr T kNone = static_cast<T>(__builtin_inf());
  const T* mean = static_cast<const T*>(args.mean);
  const T* scale = static_cast<const T*>(args.scale);
  const T* norm = static_cast<const T*>(args.norm);
  T* shares = static_cast<T*>(args.scratch);
  T* grow = shares + args.cols;
  T* drop = grow + args.cols;
  double error = 0;
  for (std::int64_t j = 0; j < args.cols; ++j) {
    shares[j] = to_float(w[j]) * mean[j];
    if (mask[j] == 0) error += static_cast<double>(shares[j]);
  }
  const T sign = error > 0 ? T{1} : T{-1};
  for (std::int64_t j = 0; j < args.cols; ++j) {
    const T value = to_float(w[j]), toward = sign * shares[j];
    const T wanda = (value < 0 ? -value : value) * norm[j];
    const T best = -toward * scale[j];
    grow[j] = mask[j] == 0 && toward > 0 ? best : kNone;
    drop[j] = mask[j] != 0 && (!args.same_sign || toward < 0) && wanda < kNone ? wanda : kNone;
  }
  for (std::int64_t step = 0; step < args.steps; ++step) {
    if (!((error < 0 ? -error : error) > args.tolerance)) return;
    std::int64_t grown = -1, dropped = -1;
    while (dropped < 0) {
      grown = smallest(grow, 0, args.cols);
      if (grown < 0) return;
      const std::int64_t begin = args.group > 0 ? grown / args.group * args.group : 0;
      const std::int64_t end = args.group > 0 ? min_i64(begin + args.group, args.cols) : args.cols;
      dropped = smallest(drop, begin, end);
      grow[grown] = kNone;
      if (dropped < 0 && args.group == 0) return;
    }
    drop[dropped] = kNone;
    const double after =
        error + static_cast<double>(shares[dropped]) - static_cast<double>(shares[grown]);
    if (static_cast<double>(sign) * after < 0) return;
    mask[grown] = 1;
    mask[dropped] = 0;
    error = after;
  }
}

}  // namespace

void dsnot(const DsnotArgs& args);
void dsnot(const DsnotArgs& args) {
  with_float_type(args.type, [&](auto type) {
    using S = typename decltype(type)::type;
    using T = decltype(to_float(S{}));
    for (std::int64_t r = 0; r < args.rows; ++r) {
      row<T>(static_cast<const S*>(args.w) + r * args.ldw, args.mask + r * args.ldmask, args);
    }
  });
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
