#pragma once

// What the operations of attention.h ask of their arguments, on whatever device.

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>

#include "gossamer/attention.h"
#include "gossamer/detail/check.h"

namespace gossamer::detail {

inline constexpr std::int64_t kMaxTokens = std::numeric_limits<std::int32_t>::max() - 1024;

/// Sizes of checked operands.
struct AttentionSizes {
  bool packed;
  std::int64_t batch, heads, key_heads, group;  // group = heads / key_heads
  std::int64_t depth, value_depth;
  std::int64_t tokens, key_tokens;     // rows of q and of k, of all packed sequences
  std::int64_t longest, longest_keys;  // sequences; of packed ones, the caller's to find out
  float scale;
};

/// Checks q, k, v and where packed sequences are, but not what cu_seqlens hold. Sets all sizes but
/// the scale.
[[nodiscard]] AttentionSizes check_attention_operands(const Checker& check, const TensorView& q,
                                                      const TensorView& k, const TensorView& v,
                                                      const BlockLayout& layout,
                                                      const AttentionOptions& options);

/// Checks the other options, and that the layout fits. Where the longest of packed sequences are
/// not `known`, what depends on them is not checked. Sets the scale.
void check_attention_options(const Checker& check, AttentionSizes& sizes, const TensorView& q,
                             const BlockLayout& layout, const AttentionOptions& given, bool known);

/// Throws for a scale or softcap that is not one of float32 scores.
void check_rule(const Checker& check, double scale, std::optional<double> softcap);

/// A result that may be written, whatever the order of its axes in memory: of a checked layout,
/// without an element twice, apart from `inputs`, bias and sinks.
void check_attention_result(const Checker& check, const Argument& out, Device device,
                            const AttentionOptions& options,
                            std::initializer_list<Argument> inputs);

/// Checks o and lse.
void check_attention_results(const Checker& check, const AttentionSizes& sizes,
                             const AttentionOptions& options, const TensorView& q,
                             const TensorView& k, const TensorView& v, const TensorView& o,
                             const TensorView& lse);

/// Checks what attention_backward takes and writes beside the operands of attention. Where the
/// longest of packed sequences are not `known`, the last two extents of dbias are not checked.
void check_attention_gradients(const Checker& check, const AttentionSizes& sizes,
                               const AttentionOptions& options, const AttentionGradient& given,
                               const TensorView& q, const TensorView& k, const TensorView& v,
                               const AttentionGradients& out, bool known);

/// Sizes of checked operands of attention_decode; `lists` heads of a sequence have a list of their
/// own.
struct DecodeSizes {
  std::int64_t batch, queries, heads, key_heads, group, depth, value_depth;
  std::int64_t pages, page_size, lists;
  float scale;
};

/// Checks all but what the lists hold.
[[nodiscard]] DecodeSizes check_attention_decode(const Checker& check, const TensorView& q,
                                                 const TensorView& k, const TensorView& v,
                                                 const DecodeKeys& keys,
                                                 const AttentionOptions& options,
                                                 const TensorView& o, const TensorView& lse);

void check_merge_attention(const Checker& check, std::span<const TensorView> o_parts,
                           std::span<const TensorView> lse_parts, const TensorView& o,
                           const TensorView& lse);

void check_block_pool(const Checker& check, const TensorView& x, std::int64_t block,
                      const TensorView& out);

void check_block_topk(const Checker& check, const TensorView& q, const TensorView& pooled,
                      const std::optional<TensorView>& pooled_min, const BlockTopkOptions& options,
                      const TensorView& indices);

}  // namespace gossamer::detail
