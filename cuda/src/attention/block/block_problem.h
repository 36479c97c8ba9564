#pragma once

// What the launches of block attention and of its gradient share.

#include "attention/block/kernels/attention_args.cuh"
#include "base/launch.h"
#include "gossamer/attention.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/attention_checks.h"

namespace gossamer::cuda {

/// Calls f with an element of the type: float32, float16 or bfloat16.
template <class F>
void with_attention_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f16:
      return f(__half{});
    case DType::bf16:
      return f(__nv_bfloat16{});
    default:
      return f(float{});
  }
}

template <class T>
AttentionRows<T> rows_of(const TensorView& x, bool packed) {
  const auto& s = x.strides;
  return {.data = static_cast<T*>(x.data),
          .batch = packed ? 0 : s[0],
          .row = packed ? s[0] : s[1],
          .head = packed ? s[1] : s[2]};
}

/// Can rows of this operand be copied 16 bytes at a time?
inline bool vectors_fit(const TensorView& x) {
  const std::int64_t size = size_of(x.dtype);
  bool fits = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0;
  for (int d = 0; d + 1 < x.rank; ++d) {
    const auto axis = static_cast<std::size_t>(d);
    fits = fits && (x.shape[axis] <= 1 || x.strides[axis] * size % 16 == 0);
  }
  return fits && x.shape[static_cast<std::size_t>(x.rank - 1)] * size % 16 == 0;
}

/// log2 of the threads that copy a row of `width` elements, `vector` of them at a time.
inline int copy_lanes(bool vectors, std::int64_t width, int vector) {
  int log_across = vectors ? 0 : 5;
  while (vectors && (std::int64_t{vector} << log_across) < width) ++log_across;
  return log_across;
}

/// Has the layout blocks that are partly kept?
[[nodiscard]] bool has_bits(const BlockLayout& layout);

/// The layout for kernels; where it has bits, queues what counts them, in `places` [nblocks].
[[nodiscard]] AttentionLayout layout_of(const BlockLayout& layout, int* places, Stream stream);

[[nodiscard]] AttentionScores scores_of(const AttentionOptions& options, float scale);

[[nodiscard]] AttentionSpan span_of(const AttentionOptions& options);

/// The longest sequences that the layout, and a bias, have room for.
[[nodiscard]] AttentionSequences sequences_of(const detail::AttentionSizes& sizes,
                                              const BlockLayout& layout,
                                              const AttentionOptions& options);

}  // namespace gossamer::cuda
