// Which blocks of keys a query attends to: pooled keys, and those with the highest scores.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention/block/kernels.h"
#include "attention/block/problem.h"
#include "base/floats.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/attention.h"

namespace gossamer {
using namespace detail;
namespace {

constexpr std::int64_t kRows = 64;   // of a task
constexpr std::int64_t kPanel = 64;  // pooled keys that are packed side by side

const std::byte* row_of(const TensorView& x, std::int64_t b, std::int64_t i, std::int64_t h) {
  return static_cast<const std::byte*>(x.data) +
         (b * x.strides[0] + i * x.strides[1] + h * x.strides[2]) * size_of(x.dtype);
}

/// The mean of rows whose sum float32 cannot hold, though perhaps their mean.
void mean_in_double(const TensorView& x, std::int64_t b, std::int64_t begin, std::int64_t end,
                    std::int64_t h, float* to) {
  const std::int64_t depth = x.shape[3];
  const Scratch scratch(depth * 12);
  auto* sums = scratch.as<double>();
  auto* row = reinterpret_cast<float*>(sums + depth);
  std::fill_n(sums, depth, 0.0);
  for (std::int64_t i = begin; i < end; ++i) {
    pack_rows(row_of(x, b, i, h), x.dtype, x.strides[1], 1, depth, depth, row);
    for (std::int64_t d = 0; d < depth; ++d) sums[d] += static_cast<double>(row[d]);
  }
  for (std::int64_t d = 0; d < depth; ++d) {
    to[d] = static_cast<float>(sums[d] / static_cast<double>(end - begin));
  }
}

/// The blocks that row i may choose, and those that it must.
struct Choice {
  Choice(const BlockTopkOptions& options, std::int64_t row, std::int64_t blocks) {
    const std::int64_t last = (row + 1) * options.rows - 1 + options.q_offset;
    const std::int64_t own = last < 0 ? -1 : last / options.block;
    end = options.causal ? std::clamp<std::int64_t>(own + 1, 0, blocks) : blocks;
    first = std::min(options.keep_first, end);
    const std::int64_t own_end = std::clamp<std::int64_t>(own + 1, 0, end);
    local_end = own_end;
    local = std::max<std::int64_t>(own_end - options.keep_local, 0);
  }
  [[nodiscard]] bool kept(std::int64_t j) const noexcept {
    return j < first || (j >= local && j < local_end);
  }

  std::int64_t end, first, local, local_end;
};

struct Candidate {
  float score;
  std::int32_t block;
  std::uint8_t rank;  // 2: kept whatever its score, 1: a number, 0: NaN

  /// Is a chosen before b?
  static bool before(const Candidate& a, const Candidate& b) {
    if (a.rank != b.rank) return a.rank > b.rank;
    if (a.rank == 1 && a.score != b.score) return a.score > b.score;
    return a.block < b.block;
  }
};

}  // namespace

void attention_block_pool(const TensorView& x, std::int64_t block, PoolMode mode,
                          const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("block_pool");
  check_block_pool(check, x, block, out);
  const std::int64_t length = x.shape[1], heads = x.shape[2], depth = x.shape[3];
  const std::int64_t blocks = ceil_div(length, block);
  for_tasks(x.shape[0] * blocks, static_cast<double>(x.numel()), [&](std::int64_t task) {
    const std::int64_t b = task / blocks, at = task % blocks * block;
    const std::int64_t end = std::min(at + block, length);
    const Scratch scratch(kRows * depth * 4);
    auto* rows = scratch.as<float>();
    for (std::int64_t h = 0; h < heads; ++h) {
      auto* to = static_cast<float*>(out.data) + b * out.strides[0] +
                 task % blocks * out.strides[1] + h * out.strides[2];
      for (std::int64_t i = at; i < end; i += kRows) {
        const std::int64_t count = std::min(kRows, end - i);
        pack_rows(row_of(x, b, i, h), x.dtype, x.strides[1], count, depth, depth, rows);
        for (std::int64_t m = 0; m < count; ++m) {
          const float* row = rows + m * depth;
          if (i + m == at) {
            std::copy_n(row, depth, to);
          } else if (mode == PoolMode::mean) {
            for (std::int64_t d = 0; d < depth; ++d) to[d] += row[d];
          } else if (mode == PoolMode::max) {
            for (std::int64_t d = 0; d < depth; ++d) {
              to[d] = row[d] <= to[d] || to[d] != to[d] ? to[d] : row[d];  // NaN stays
            }
          } else {
            for (std::int64_t d = 0; d < depth; ++d) {
              to[d] = row[d] >= to[d] || to[d] != to[d] ? to[d] : row[d];
            }
          }
        }
      }
      if (mode != PoolMode::mean) continue;
      const auto count = static_cast<float>(end - at);
      bool finite = true;
      for (std::int64_t d = 0; d < depth; ++d) {
        to[d] /= count;
        finite = finite && std::isfinite(to[d]);
      }
      if (!finite) mean_in_double(x, b, at, end, h, to);
    }
  });
}

void attention_block_topk(const TensorView& q, const TensorView& pooled,
                          const std::optional<TensorView>& pooled_min,
                          const BlockTopkOptions& options, const TensorView& indices) {
  const FloatEnvironment floats;
  const Checker check("block_topk");
  check_block_topk(check, q, pooled, pooled_min, options, indices);
  const std::int64_t batch = q.shape[0], rows = q.shape[1], heads = q.shape[2], depth = q.shape[3];
  const std::int64_t blocks = pooled.shape[1], key_heads = pooled.shape[2];
  const std::int64_t group = heads / key_heads, width = pooled_min ? 2 * depth : depth;
  const std::int64_t panels = ceil_div(blocks, kPanel), pairs = batch * key_heads;
  // The score is linear in the queries of a group, so that their sum is multiplied; with a minimum,
  // in their positive and in their negative parts.
  const Scratch packed(pairs * panels * kPanel * width * 4);
  parallel_for(pairs * panels, [&](std::int64_t task) {
    const std::int64_t pair = task / panels, first = task % panels * kPanel;
    const std::int64_t b = pair / key_heads, h = pair % key_heads;
    const std::int64_t count = std::min(kPanel, blocks - first);
    float* to = packed.as<float>() + task * kPanel * width;
    pack_columns(row_of(pooled, b, first, h), pooled.dtype, pooled.strides[1], count, depth, kPanel,
                 to);
    if (pooled_min) {
      pack_columns(row_of(*pooled_min, b, first, h), pooled_min->dtype, pooled_min->strides[1],
                   count, depth, kPanel, to + depth * kPanel);
    }
  });
  const std::int64_t cuts = ceil_div(rows, kRows);
  parallel_for(pairs * cuts, [&](std::int64_t task) {
    const std::int64_t pair = task / cuts, first = task % cuts * kRows;
    const std::int64_t b = pair / key_heads, h = pair % key_heads;
    const std::int64_t count = std::min(kRows, rows - first);
    const Scratch scratch(4 * kRows * (width + depth + kPanel * panels + kPanel));
    auto* sums = scratch.as<float>();
    float* part = sums + kRows * width;
    float* scores = part + kRows * depth;
    float* tile = scores + kRows * kPanel * panels;
    std::fill_n(sums, count * width, 0.0f);
    for (std::int64_t g = 0; g < group; ++g) {
      pack_rows(row_of(q, b, first, h * group + g), q.dtype, q.strides[1], count, depth, depth,
                part);
      for (std::int64_t m = 0; m < count; ++m) {
        const float* from = part + m * depth;
        float* to = sums + m * width;
        for (std::int64_t d = 0; d < depth; ++d) {
          if (!pooled_min) {
            to[d] += from[d];
          } else {
            to[d] += from[d] > 0 ? from[d] : 0.0f;
            to[depth + d] += from[d] > 0 ? 0.0f : from[d];
          }
        }
      }
    }
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      block_attention_kernels().attention_block_scores(
          {.a = sums,
           .b = packed.as<float>() + (pair * panels + panel) * kPanel * width,
           .rows = count,
           .depth = width,
           .cols = kPanel,
           .out = tile});
      for (std::int64_t m = 0; m < count; ++m) {
        std::copy_n(tile + m * kPanel, kPanel, scores + (m * panels + panel) * kPanel);
      }
    }
    std::vector<Candidate> candidates;
    std::vector<std::int32_t> chosen;
    for (std::int64_t m = 0; m < count; ++m) {
      const Choice choice(options, first + m, blocks);
      candidates.clear();
      for (std::int64_t j = 0; j < choice.end; ++j) {
        const float score = scores[m * panels * kPanel + j];
        const int rank = choice.kept(j) ? 2 : score == score ? 1 : 0;
        candidates.push_back({.score = score,
                              .block = static_cast<std::int32_t>(j),
                              .rank = static_cast<std::uint8_t>(rank)});
      }
      const auto n = static_cast<std::ptrdiff_t>(std::min(options.k, choice.end));
      if (n < static_cast<std::ptrdiff_t>(candidates.size())) {
        std::nth_element(candidates.begin(), candidates.begin() + n, candidates.end(),
                         &Candidate::before);
      }
      chosen.assign(static_cast<std::size_t>(options.k), -1);
      for (std::ptrdiff_t c = 0; c < n; ++c) {
        chosen[static_cast<std::size_t>(c)] = candidates[static_cast<std::size_t>(c)].block;
      }
      std::sort(chosen.begin(), chosen.begin() + n);
      auto* to = static_cast<std::int32_t*>(indices.data) + b * indices.strides[0] +
                 (first + m) * indices.strides[1] + h * indices.strides[2];
      std::copy(chosen.begin(), chosen.end(), to);
    }
  });
}

}  // namespace gossamer
