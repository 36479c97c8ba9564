#pragma once

// The dense sides of sddmm, which all of its kernels take.

#include <cstdint>

namespace gossamer::cuda {

/// out at each entry (i, j) of the pattern: Σ_d a[i*lda + d] · b[j*ldb + d], added to what is there
/// where `accumulate`.
template <class T>
struct SddmmDense {
  const T* a;
  std::int64_t lda;
  const T* b;
  std::int64_t ldb;
  std::int64_t depth;
  T* out;
  bool accumulate;
};

}  // namespace gossamer::cuda
