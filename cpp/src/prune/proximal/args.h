#pragma once

// What the kernels of gossamer/prune/proximal.h take. "Real" is double where `f64`, else float.

#include <cstdint>

#include "gossamer/dtype.h"

namespace gossamer::detail {

enum class Update : std::uint8_t {
  soft,    // x = sign(x)·max(|x| - a, 0)
  shrink,  // x = mask ? x : a·x; 0 where a is 0
  decay,   // x = mask ? x : x + a·other
};

struct UpdateArgs {
  Update what;
  void* x;
  DType type;
  std::int64_t stride;
  const void* other;  // of x's type, or null
  std::int64_t other_stride;
  const std::uint8_t* mask;  // may be null
  std::int64_t mask_stride;
  std::int64_t rows, cols;
  double a;
};

/// out[g] = Σ of x² (or |x|) over the g-th `group` columns of the row, row by row.
struct GroupSumArgs {
  const void* x;
  DType type;
  std::int64_t stride;
  std::int64_t rows, cols;
  std::int64_t group;  // divides cols
  bool squares;
  double* out;  // [rows, cols/group]
};

/// x(r, j) *= factors[j] where group is 0, else factors[r*(cols/group) + j/group]; 0 gives 0.
struct GroupScaleArgs {
  void* x;
  DType type;
  std::int64_t stride;
  std::int64_t rows, cols;
  std::int64_t group;
  const void* factors;  // Real
};

}  // namespace gossamer::detail
