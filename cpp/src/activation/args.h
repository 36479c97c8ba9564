#pragma once

// What the kernels of sparse activations take. "Real" is the type that sums are kept in: double
// where the operands are float64, else float.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::detail {

/// channels = the j < count, increasing, where v(t, j) passes for a token t < tokens: not
/// |v| < threshold, or < thresholds[j] where these are given. v(t, j) = x[t*stride + j], less
/// last[t*count + j] where that is given. *found = how many they are.
struct SelectChannelsArgs {
  const void* x;
  DType type;
  std::int64_t stride;
  std::int64_t tokens, count;
  const void* last;  // Real, may be null
  double threshold;
  const void* thresholds;  // Real, may be null
  std::int32_t* channels;  // room for `count`
  std::int64_t* found;
};

/// values[t*found + i] = Real(v(t, channels[i])) for i < found, with v as above. Where there is
/// `last`, it becomes x at these places.
struct GatherChannelsArgs {
  const void* x;
  DType type;
  std::int64_t stride;
  std::int64_t tokens, count;
  void* last;  // Real, may be null
  const std::int32_t* channels;
  std::int64_t found;
  void* values;
};

/// sums[t*ld + c] = [sums[t*ld + c] +] Σ_i weights[t*weights_stride + i]·table[rows[i]*stride + c]
/// for t < tokens and c < cols, over i < count in order; sums and weights are Real.
struct SumRowsArgs {
  const void* table;
  DType type;
  std::int64_t stride;
  std::int64_t cols;
  const std::int32_t* rows;
  std::int64_t count;
  const void* weights;
  std::int64_t weights_stride;
  std::int64_t tokens;
  void* sums;
  std::int64_t ld;
  bool accumulate;
};

/// dots[t*ld + i] = [dots[t*ld + i] ·] Σ_j x[t*x_stride + j]·table[r*stride + j] over j < depth,
/// for t < tokens and i < count, with r = rows[i], or i where rows is null; x and dots are Real.
struct DotRowsArgs {
  const void* table;
  DType type;
  std::int64_t stride;
  std::int64_t depth;
  const std::int32_t* rows;  // may be null
  std::int64_t count;
  const void* x;
  std::int64_t x_stride;
  std::int64_t tokens;
  void* dots;
  std::int64_t ld;
  bool multiply;
};

}  // namespace gossamer::detail
