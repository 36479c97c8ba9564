#pragma once

// How scores of edges come about, for the kernels of both backends.

#include <cstdint>

namespace gossamer::detail {

/// How the score of query i and key j at entry p comes about: scale·⟨q_i, k_j⟩ or, with `gat`,
/// scale·leaky(q_i + k_j) of single numbers, leaky(x) = x for x > 0, else slope·x; plus
/// bias[h*bias_head + p] where there is a bias, of the operands' type.
struct EdgeScore {
  bool gat;
  double scale, slope;
  const void* bias;
  std::int64_t bias_head;
};

}  // namespace gossamer::detail
