#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <variant>

#include "gossamer/detail/layout_checks.h"

namespace gossamer::detail {
namespace {

constexpr std::int64_t kMostInt32 = std::numeric_limits<std::int32_t>::max();

const Checker kBlockLayout("BlockLayout");

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b > 0 ? 1 : 0); }

void at_least(const Checker& check, const char* name, std::int64_t value, std::int64_t least) {
  if (value < least) {
    check.value_error(std::string(name) + " is " + text(value) + ", expected at least " +
                      text(least));
  }
}

void check_tokens(const Checker& check, std::int64_t tokens) {
  at_least(check, "tokens", tokens, 0);
  if (tokens > kMostInt32) {
    check.value_error("tokens is " + text(tokens) + ", expected less than 2**31");
  }
}

LayoutShape shape_of(const LocalStride& source) {
  return {.batch = 1, .heads = source.heads, .rows = source.blocks, .cols = source.blocks};
}
LayoutShape shape_of(const WindowGlobal& source) {
  return {.batch = 1, .heads = source.heads, .rows = source.rows, .cols = source.cols};
}
LayoutShape shape_of(const BlockMask& source) {
  const auto& shape = source.mask.shape;
  return {.batch = shape[0], .heads = shape[1], .rows = shape[2], .cols = shape[3]};
}
LayoutShape shape_of(const BlockLists& source) {
  const auto& shape = source.indices.shape;
  return {.batch = shape[0], .heads = shape[1], .rows = shape[2], .cols = source.cols};
}
LayoutShape shape_of(const PatternTiles& source) {
  const std::int64_t tokens = check_layout_source(Checker("BlockLayout.from_csr"), source);
  return {.batch = source.batch,
          .heads = source.heads,
          .rows = ceil_div(tokens, source.block.rows),
          .cols = ceil_div(source.columns, source.block.cols)};
}
LayoutShape shape_of(const Slashes& source) {
  const auto& shape = source.slashes.shape;
  const LayoutBlock block = source.block;
  if (block.rows < 1 || block.cols < 1) return {.batch = 0, .heads = 0, .rows = 0, .cols = 0};
  return {.batch = shape[0],
          .heads = shape[1],
          .rows = ceil_div(source.tokens, block.rows),
          .cols = ceil_div(source.tokens, block.cols)};
}
LayoutShape shape_of(const Verticals& source) {
  LayoutShape shape = source.slashes->shape();
  shape.cols = source.tokens;
  return shape;
}

}  // namespace

void check_layout_source(const Checker& check, const LocalStride& s) {
  at_least(check, "heads", s.heads, 1);
  at_least(check, "blocks", s.blocks, 0);
  at_least(check, "local", s.local, 1);
  at_least(check, "stride", s.stride, 1);
  at_least(check, "head_shift", s.head_shift, 0);
  at_least(check, "dense_heads", s.dense_heads, 0);
  const std::pair<const char*, std::int64_t> counts[] = {{"heads", s.heads},
                                                         {"blocks", s.blocks},
                                                         {"local", s.local},
                                                         {"stride", s.stride},
                                                         {"head_shift", s.head_shift}};
  for (const auto& [name, n] : counts) {
    if (n <= kMostInt32) continue;
    check.value_error(std::string(name) + " is " + text(n) + ", expected less than 2**31");
  }
}

void check_layout_source(const Checker& check, const WindowGlobal& s) {
  at_least(check, "heads", s.heads, 1);
  at_least(check, "blocks[0]", s.rows, 0);
  at_least(check, "blocks[1]", s.cols, 0);
  at_least(check, "window[0]", s.before, 0);
  at_least(check, "window[1]", s.after, 0);
  at_least(check, "random", s.random, 0);
  const std::int64_t extent = std::max(s.rows, s.cols);
  if (extent > kMostInt32) {
    check.value_error("blocks has " + text(extent) + ", expected less than 2**31");
  }
  for (const std::int64_t g : s.globals) {
    if (g < 0 || g >= extent) {
      check.value_error("globals has " + text(g) + ", expected 0 to " + text(extent - 1));
    }
  }
}

std::int64_t check_layout_source(const Checker& check, const PatternTiles& s) {
  at_least(check, "batch", s.batch, 1);
  at_least(check, "heads", s.heads, 1);
  at_least(check, "block[0]", s.block.rows, 1);
  at_least(check, "block[1]", s.block.cols, 1);
  const std::int64_t all = s.indptr.shape[0] - 1;
  if (s.batch > kMostInt32 || s.heads > kMostInt32 || all % (s.batch * s.heads) != 0) {
    check.value_error("pattern.shape[0] is " + text(all) + ", expected a multiple of batch*heads");
  }
  return all / (s.batch * s.heads);
}

void check_layout_source(const Checker& check, const Slashes& s) {
  check.index({"slashes", s.slashes});
  check.rank({"slashes", s.slashes}, {3});
  check.device({"slashes", s.slashes}, s.slashes.device, "slashes");
  check_tokens(check, s.tokens);
  at_least(check, "block[0]", s.block.rows, 1);
  at_least(check, "block[1]", s.block.cols, 1);
}

void check_layout_source(const Checker& check, const Verticals& s) {
  check.index({"columns", s.columns});
  check.rank({"columns", s.columns}, {3});
  check.device({"columns", s.columns}, s.columns.device, "columns");
  const LayoutShape& shape = s.slashes->shape();
  check.extent({"columns", s.columns}, 0, shape.batch, "slashes.shape[0]");
  check.extent({"columns", s.columns}, 1, shape.heads, "slashes.shape[1]");
  check_tokens(check, s.tokens);
}

bool check_layout_to_mask(const Checker& check, const BlockLayout& layout, const TensorView& mask) {
  const LayoutShape& shape = layout.shape();
  const LayoutBlock block = layout.block();
  if (mask.dtype != DType::boolean && mask.dtype != DType::u8) {
    check.type_error(std::string("out.dtype is ") + name_of(mask.dtype) +
                     ", expected bool or uint8");
  }
  const std::int64_t height = shape.rows * block.rows, width = shape.cols * block.cols;
  const bool elements = mask.rank == 4 && mask.shape[2] == height && mask.shape[3] == width;
  if (!elements) {
    check.shape({"out", mask}, {shape.batch, shape.heads, shape.rows, shape.cols});
  }
  check.device({"out", mask}, layout.device(), "the layout");
  check.contiguous({"out", mask});
  check.writable({"out", mask}, {{"indptr", layout.indptr()}, {"indices", layout.indices()}});
  return elements;
}

void refuse_token(const char* argument, std::int64_t token, std::int64_t tokens) {
  Checker("BlockLayout.vertical_slash")
      .value_error(std::string(argument) + " has " + text(token) +
                   ", expected -1 to tokens - 1 = " + text(tokens - 1));
}

void check_layout_source(const Checker& check, const BlockMask& source) {
  check.mask({"mask", source.mask});
  check.rank({"mask", source.mask}, {4});
  check.device({"mask", source.mask}, source.mask.device, "mask");
}

void check_layout_source(const Checker& check, const BlockLists& source) {
  const Argument indices{"indices", source.indices};
  check.index(indices);
  check.rank(indices, {4});
  check.device(indices, source.indices.device, "indices");
  if (source.cols < 0) {
    check.value_error("cols is " + text(source.cols) + ", expected at least 0");
  }
  if (source.cols > kMostInt32) {
    check.value_error("cols is " + text(source.cols) + ", expected less than 2**31");
  }
  if (!source.counts) return;
  const auto& shape = source.indices.shape;
  check.index({"counts", *source.counts});
  check.shape({"counts", *source.counts}, {shape[0], shape[1], shape[2]});
  check.device({"counts", *source.counts}, source.indices.device, "indices");
}

std::int64_t check_layout_rows(const LayoutShape& shape, const TensorView& indptr) {
  std::int64_t heads = 0, rows = 0;
  if (__builtin_mul_overflow(shape.batch, shape.heads, &heads) ||
      __builtin_mul_overflow(heads, shape.rows, &rows) || rows >= kMostInt32) {
    kBlockLayout.value_error("the pattern has 2**31 rows of blocks or more, expected fewer");
  }
  kBlockLayout.dtype({"indptr", indptr}, DType::i32, "int32");
  kBlockLayout.shape({"indptr", indptr}, {rows + 1});
  kBlockLayout.contiguous({"indptr", indptr});
  kBlockLayout.writable({"indptr", indptr}, {});
  return rows;
}

void refuse_column(const Checker& check, const BlockLists& source, std::int64_t column) {
  check.value_error("indices has " + text(column) + ", expected -1 to " + text(source.cols - 1));
}

void refuse_count(const Checker& check, const BlockLists& source, std::int64_t count) {
  check.value_error("counts has " + text(count) +
                    ", expected 0 to indices.shape[-1] = " + text(source.indices.shape[3]));
}

void check_layout_blocks(std::int64_t blocks) {
  if (blocks > kMostInt32) {
    kBlockLayout.value_error("the pattern keeps 2**31 blocks or more, expected fewer");
  }
}

}  // namespace gossamer::detail

namespace gossamer {

LayoutShape layout_shape(const LayoutSource& source) {
  return std::visit([](const auto& one) { return detail::shape_of(one); }, source);
}

}  // namespace gossamer
