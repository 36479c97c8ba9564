#pragma once

// Plain types that the arguments of several families' kernels are made of.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::detail {

/// Types of (row pointers, column indices).
enum class IndexKind : std::uint8_t { i32_u16, i32_i32, i64_i64 };

/// Widths that a tile of Real columns may have.
inline constexpr int kTileWidths[] = {8, 16, 32, 64};
inline constexpr int kMaxTile = 64;

/// How elements become keys: unsigned numbers, the larger the earlier an element is taken.
struct KeyOrder {
  /// f32, f64, f16 or bf16.
  DType type;
  /// Compares absolute values.
  bool magnitude;
  bool largest;
  bool nan_high;
};

/// Elements [0, count) at `data`; with `within`, only those whose byte is nonzero, or whose bit of
/// words of 64, the first in the lowest place.
struct KeySource {
  KeyOrder order;
  const void* data;
  const std::uint8_t* within;  // may be null
  std::int64_t count;
  bool within_bits = false;
};

/// A mask: bytes, or bits with the first of eight in the lowest (1) or the highest (2) place.
struct MaskTarget {
  std::uint8_t* data;  // may be null
  int packing;
};

}  // namespace gossamer::detail
