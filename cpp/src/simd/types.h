#pragma once

// Plain types that occur in the arguments of several families' kernels.

#include <cstdint>

#include "gossamer/dtype.h"
#include "gossamer/prune/enums.h"

namespace gossamer::detail {

/// The bits of +infinity: as unsigned numbers, those of a NaN without its sign are greater.
static constexpr std::uint64_t infinity_bits(DType type) {
  switch (type) {
    case DType::f64:
      return 0x7ff0000000000000u;
    case DType::f16:
      return 0x7c00u;
    case DType::bf16:
      return 0x7f80u;
    default:
      return 0x7f800000u;
  }
}

/// Types of (row pointers, column indices).
enum class IndexKind : std::uint8_t { i32_u16, i32_i32, i64_i64 };

/// How many columns of Real a tile may have.
inline constexpr int kTileWidths[] = {8, 16, 32, 64};
inline constexpr int kMaxTile = 64;

/// How elements become keys: unsigned integers of which a larger one is selected earlier
/// (docs/selection.md).
struct KeyOrder {
  /// f32, f64, f16 or bf16.
  DType type;
  /// Whether absolute values are compared.
  bool magnitude;
  bool largest;
  bool nan_high;
};

/// Elements [0, count) at `data`. With `within`, only those are eligible whose byte is nonzero, or,
/// with `within_bits`, whose bit is set (in words of 64, the first element in the lowest bit).
struct KeySource {
  KeyOrder order;
  const void* data;
  const std::uint8_t* within;  // may be null
  std::int64_t count;
  bool within_bits = false;
};

/// A mask to write.
struct MaskTarget {
  std::uint8_t* data;  // may be null
  prune::MaskFormat format;
};

}  // namespace gossamer::detail
