#pragma once

// What the launches of csr_attention and of its gradient share.

#include <algorithm>
#include <initializer_list>

#include "attention/csr/kernels/csr_edges.cuh"
#include "base/launch.h"
#include "formats/csr/csr_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/csr_attention_checks.h"

namespace gossamer::cuda {

template <class T>
EdgeRows<T> edge_rows(const detail::HeadTensor& x) {
  return {.data = static_cast<T*>(x.data),
          .batch = x.batch_stride,
          .row = x.row_stride,
          .head = x.head_stride};
}

template <class T>
EdgeScores<T> edge_scores(const detail::AttentionProblem& problem) {
  const detail::EdgeScore& score = problem.score;
  return {.gat = score.gat,
          .scale = static_cast<Sum<T>>(score.scale),
          .slope = static_cast<Sum<T>>(score.slope),
          .bias = static_cast<const T*>(score.bias),
          .bias_batch = problem.bias_batch,
          .bias_head = score.bias_head};
}

/// Lists longer than eight times the mean, and than what a warp does in 32 steps, are long.
inline unsigned long_edges(std::int64_t entries, std::int64_t lists, std::int64_t longest) {
  const std::int64_t cut =
      std::max<std::int64_t>(256, 8 * (entries / std::max<std::int64_t>(lists, 1)));
  return std::min(longest, entries) > cut ? static_cast<unsigned>(cut) : 0;
}

/// Lanes of a group: enough for the wider of the two depths, V elements each; at least 2^least_log.
inline int edge_lanes(std::int64_t depth, std::int64_t depth_v, int vector, int least_log) {
  const std::int64_t vectors = ceil_div(std::max(depth, depth_v), vector);
  int log_group = least_log;
  while (log_group < 5 && (1 << log_group) < vectors) ++log_group;
  return log_group;
}

/// Can rows of these operands be read and written 16 bytes at a time?
inline bool vectors_fit(std::initializer_list<detail::HeadTensor> operands) {
  return std::all_of(operands.begin(), operands.end(), [](const detail::HeadTensor& x) {
    const std::int64_t size = size_of(x.type);
    return aligned(x.data, x.row_stride, size, 16) && x.batch_stride * size % 16 == 0 &&
           x.head_stride * size % 16 == 0 && x.depth * size % 16 == 0;
  });
}

/// Calls run(T{}, integral_constant<V>) with the elements of a vector.
template <class F>
void with_edge_vectors(DType dtype, bool vectors, F&& run) {
  with_element_type(dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) < 8) {
      if (vectors) return run(T{}, std::integral_constant<int, 16 / static_cast<int>(sizeof(T))>());
    }
    run(T{}, std::integral_constant<int, 1>());
  });
}

inline dim3 edge_grid(std::int64_t lists, std::int64_t pairs, std::int64_t columns) {
  return {grid_x(ceil_div(lists, kEdgeWarps)), grid_y(pairs),
          static_cast<unsigned>(std::max<std::int64_t>(ceil_div(columns, kEdgeTile), 1))};
}

}  // namespace gossamer::cuda
