#pragma once

// What the kernels that all families use take. "Real" is the type that sums are kept in: double
// where `f64`, else float.

#include <cstdint>

#include "gossamer/activation_function.h"
#include "gossamer/dtype.h"
#include "simd/types.h"

namespace gossamer::detail {

/// dst[r*ld + c] = Real(src(r, c)), src(r, c) = src[r*stride + c], or src[c*stride + r] where
/// `transposed`; columns from `cols` to `ld` are set to zero when `pad`.
struct ConvertTileArgs {
  const void* src;
  DType src_type;
  std::int64_t stride;
  bool transposed;
  std::int64_t rows, cols;
  void* dst;
  std::int64_t ld;
  bool pad;
  bool f64;
};

/// out(r, c) = activation(tile[r*ld + c] + bias [+ out(r, c)]), out(r, c) = out[r*stride + c], or
/// out[c*stride + r] where `transposed`. `bias` has out's type and is indexed by r or by c.
struct StoreTileArgs {
  const void* tile;
  std::int64_t ld;
  std::int64_t rows, cols;
  void* out;
  DType out_type;
  std::int64_t stride;
  bool transposed;
  const void* bias;
  bool bias_by_row;
  Activation activation;
  double lo, hi;
  bool accumulate;
  bool f64;
};

/// Measures the machine: what is computed is thrown away. `result` keeps the compiler honest.
struct ProbeArgs {
  enum class What : std::uint8_t { read, fma, tiles } what;
  const float* data;    // read: streamed `repeat` times
  std::int64_t size;    // read: floats, a multiple of 256
  std::int64_t repeat;  // read: passes; else rounds
  std::int64_t* flops;  // fma, tiles: operations done
  float* result;
};

// Masks as bits: words of 64, the first in the lowest place, zeros behind the last.

/// bits [⌈count/64⌉] = which bytes are nonzero, *ones = how many are.
struct PackBitsArgs {
  const std::uint8_t* bytes;
  std::int64_t count;
  std::uint64_t* bits;
  std::int64_t* ones;
};

/// bytes [count] = 0 or 1.
struct UnpackBitsArgs {
  const std::uint64_t* bits;
  std::int64_t count;
  std::uint8_t* bytes;
};

/// The places of ones, to an array that holds 64 more, and how many there are.
struct ListBitsArgs {
  const std::uint64_t* bits;
  std::int64_t words;
  std::uint32_t* places;  // may be null
  std::int64_t* ones;
};

/// data[i] = value, or source[i], where bit i is one, for elements of `item` = 2, 4 or 8 bytes.
struct WriteBitsArgs {
  const std::uint64_t* bits;
  std::int64_t count;
  void* data;
  const void* source;  // may be null
  std::uint64_t value;
  int item;
};

}  // namespace gossamer::detail
