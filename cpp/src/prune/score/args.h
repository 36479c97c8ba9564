#pragma once

// What the kernels of scores take.

#include <cstdint>

#include "gossamer/dtype.h"
#include "gossamer/prune/enums.h"

namespace gossamer::detail {

/// out[i] = scale · score(i) for i < count, in double where `f64`, else in float. The operands
/// point at the first entry; entry i uses factor[(column + i) % columns], which has out's type.
struct ScoreTileArgs {
  prune::ScoreKind kind;
  const void* w;
  const void* g;  // may be null, as may m and v
  const void* m;
  const void* v;
  DType w_type, g_type, m_type, v_type;
  const void* factor;
  std::int64_t column, columns;
  std::int64_t count;
  double alpha, beta, eps, scale;
  void* out;
  bool f64;
};

/// out[i] = x[i], or its square root, in double where `f64`, else in float.
struct ScoreFactorArgs {
  const void* x;
  DType type;
  std::int64_t count;
  bool root;
  void* out;
  bool f64;
};

}  // namespace gossamer::detail
