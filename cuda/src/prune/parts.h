#pragma once

// Scores as kernels take them.

#include <cstdint>

#include "base/launch.h"
#include "gossamer/detail/mask_checks.h"
#include "prune/kernels/keys.cuh"

namespace gossamer::cuda {

/// The arrays of a score that its kind reads.
ScoreArgs score_args(const prune::Score& score);

/// The elements of a score, compared in `type`. `mask` and `within` may be null.
SelectPart part_of(const prune::Score& score, DType type, const std::uint8_t* within,
                   std::uint8_t* mask);

/// Elements [first, first + count) of a part, whose mask has bytes.
SelectPart segment_of(const SelectPart& part, std::int64_t first, std::int64_t count);

inline std::uint8_t* bytes_of(const TensorView& mask) {
  return static_cast<std::uint8_t*>(mask.data);
}

/// The keys of elements of a type.
template <class K>
KeyMap<K> key_map(DType type, bool largest, prune::Nan nan) {
  KeyMap<K> map{};
  map.sign = static_cast<K>(K{1} << (8 * size_of(type) - 1));
  map.top = static_cast<K>(map.sign | (map.sign - 1));
  map.infinity = static_cast<K>(type == DType::f64   ? 0x7ff0000000000000u
                                : type == DType::f32 ? 0x7f800000u
                                : type == DType::f16 ? 0x7c00u
                                                     : 0x7f80u);
  map.flip = largest ? 0 : map.top;
  map.nan = (nan == prune::Nan::highest) == largest ? map.top : 0;
  return map;
}

/// Calls f(K{}) with the type of the keys of elements of `type`.
template <class F>
void with_key_type(DType type, F&& f) {
  if (type == DType::f64) return f(0ull);
  f(0u);
}

}  // namespace gossamer::cuda
