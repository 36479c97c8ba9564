// attention_block_pool and attention_block_topk.

#include <algorithm>

#include "attention/block/block_problem.h"
#include "attention/block/kernels/block_choose.cuh"
#include "base/runtime.h"

namespace gossamer::cuda {
namespace {

/// How rows of queries are distributed over thread blocks; it depends on shapes alone.
struct TopkPlan {
  std::int64_t tiles, width, room;  // room: floats of a thread block
  unsigned blocks;
  bool in_memory;  // what a thread block needs is more than its shared memory

  [[nodiscard]] std::int64_t bytes() const {
    return room * static_cast<std::int64_t>(sizeof(float));
  }
};

/// Two thread blocks with so much each fit into an SM of every GPU. The others' number is limited,
/// so that what they need stays in the level-2 cache.
constexpr std::int64_t kMostShared = 80 * 1024;
constexpr std::int64_t kMostInMemory = 264, kMostInShared = 2048;

TopkPlan plan_topk(const TensorView& q, const TensorView& pooled, bool bounds) {
  TopkPlan plan{};
  plan.tiles = q.shape[0] * pooled.shape[2] * ceil_div(q.shape[1], kTopkRows);
  plan.width = ceil_div(pooled.shape[3], kTopkDepth) * kTopkDepth * (bounds ? 2 : 1);
  plan.room = kTopkRows * (plan.width + pooled.shape[1]);
  plan.in_memory = plan.bytes() > kMostShared;
  plan.blocks =
      static_cast<unsigned>(std::min(plan.tiles, plan.in_memory ? kMostInMemory : kMostInShared));
  return plan;
}

}  // namespace

void attention_block_pool(const TensorView& x, std::int64_t block, PoolMode mode,
                          const TensorView& out, Stream stream) {
  const detail::Checker check("block_pool", DeviceType::cuda);
  detail::check_block_pool(check, x, block, out);
  if (out.numel() == 0) return;
  const std::int64_t grid = ceil_div(out.numel(), kPoolThreads);
  if (grid > 0x7fffffff) check.not_implemented("out has 2**39 elements or more on a GPU");
  const DeviceGuard guard(x.device);
  with_attention_type(x.dtype, [&]<class T>(T) {
    launch(block_pool_rows<T>, dim3(grid_x(grid)), dim3(kPoolThreads), 0, stream,
           PoolRowsArgs<T>{.x = rows_of<const T>(x, false),
                           .out = rows_of<float>(out, false),
                           .count = out.numel(),
                           .length = x.shape[1],
                           .block = block,
                           .blocks = out.shape[1],
                           .heads = x.shape[2],
                           .depth = x.shape[3],
                           .mean = mode == PoolMode::mean,
                           .largest = mode == PoolMode::max});
  });
}

std::int64_t attention_block_topk_workspace(const TensorView& q, const TensorView& pooled,
                                            const std::optional<TensorView>& pooled_min) {
  // The operation refuses these operands before it uses the workspace.
  if (q.rank != 4 || pooled.rank != 4) return 0;
  if (pooled.shape[1] > 0x7fffffff || pooled.shape[3] > 0x3fffffff) return 0;
  const TopkPlan plan = plan_topk(q, pooled, pooled_min.has_value());
  return plan.in_memory ? plan.bytes() * plan.blocks : 0;
}

void attention_block_topk(const TensorView& q, const TensorView& pooled,
                          const std::optional<TensorView>& pooled_min,
                          const BlockTopkOptions& options, const TensorView& indices,
                          const TensorView& workspace, Stream stream) {
  const detail::Checker check("block_topk", DeviceType::cuda);
  detail::check_block_topk(check, q, pooled, pooled_min, options, indices);
  check.workspace(workspace, q.device, attention_block_topk_workspace(q, pooled, pooled_min));
  if (indices.numel() == 0) return;
  if (pooled.shape[1] > 0x7fffff00 || pooled.shape[3] > 0x3fffff) {
    check.not_implemented("pooled has 2**31 blocks or 2**22 columns or more on a GPU");
  }
  const DeviceGuard guard(q.device);
  const TopkPlan plan = plan_topk(q, pooled, pooled_min.has_value());
  BlockTopkArgs args{.q = rows_of<const void>(q, false),
                     .pooled = rows_of<const void>(pooled, false),
                     .pooled_min = {},
                     .q_type = q.dtype,
                     .pooled_type = pooled.dtype,
                     .min_type = DType::f32,
                     .rows = q.shape[1],
                     .tiles = plan.tiles,
                     .key_heads = static_cast<int>(pooled.shape[2]),
                     .group = static_cast<int>(q.shape[2] / pooled.shape[2]),
                     .depth = static_cast<int>(q.shape[3]),
                     .width = static_cast<int>(plan.width),
                     .blocks = static_cast<int>(pooled.shape[1]),
                     .k = options.k,
                     .row_queries = options.rows,
                     .block = options.block,
                     .q_offset = options.q_offset,
                     .keep_first = options.keep_first,
                     .keep_local = options.keep_local,
                     .causal = options.causal,
                     .space = plan.in_memory ? static_cast<float*>(workspace.data) : nullptr,
                     .room = plan.room,
                     .indices = rows_of<int>(indices, false)};
  if (pooled_min) {
    args.pooled_min = rows_of<const void>(*pooled_min, false);
    args.min_type = pooled_min->dtype;
  }
  launch(block_topk, dim3(plan.blocks), dim3(kTopkThreads),
         plan.in_memory ? 0 : static_cast<std::size_t>(plan.bytes()), stream, args);
}

}  // namespace gossamer::cuda
