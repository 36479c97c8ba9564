#pragma once

// Several sets of operands of one sparse matrix, counted over one or two axes.

#include <cstdint>

#include "base/device.cuh"

namespace gossamer::cuda {

/// Where the matrices of a dense operand begin: matrix s at (s / inner)·outer + (s mod inner)·step.
struct SetSteps {
  std::int64_t outer, step;
};

struct Sets {
  bool several = false;  // else there is one, and nothing below counts
  unsigned first = 0;    // the number of the first set of a launch
  unsigned inner = 1;    // extent of the inner axis
  unsigned stacks = 1;   // set s has rows [g·rows, (g+1)·rows) of the pattern, g = s mod stacks
  int rows = 0;
  std::int64_t values = 0;  // from values of set s·stacks to those of (s+1)·stacks

  __device__ std::int64_t offset(unsigned set, const SetSteps& steps) const {
    return set / inner * steps.outer + set % inner * steps.step;
  }
};

}  // namespace gossamer::cuda
