#include <algorithm>
#include <cstring>
#include <string>

#include "base/buffer.h"
#include "base/floats.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/check.h"
#include "gossamer/prune/patterns.h"
#include "prune/masks.h"
#include "prune/patterns/kernels.h"

namespace gossamer::prune {
using namespace detail;
namespace {

constexpr std::int64_t kNarrow = 16;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Each byte as often as a word is wide, as 0 or 1.
template <class Word>
void spread(const std::uint8_t* from, std::int64_t count, std::uint8_t* to) {
  constexpr auto kOnes = static_cast<Word>(std::uint64_t{0x0101010101010101});
  for (std::int64_t i = 0; i < count; ++i) {
    const auto word = static_cast<Word>(from[i] != 0 ? kOnes : 0);
    std::memcpy(to + i * static_cast<std::int64_t>(sizeof(Word)), &word, sizeof(Word));
  }
}

void check_block(const Checker& check, BlockShape block) {
  if (block.rows >= 1 && block.cols >= 1) return;
  check.value_error("block is (" + std::to_string(block.rows) + ", " + std::to_string(block.cols) +
                    "), expected at least (1, 1)");
}

}  // namespace

void block_pool(const Score& score, BlockShape block, Reduce reduce, const TensorView& out) {
  const FloatEnvironment floats;
  constexpr const char* op = "block_pool";
  const Checker check(op);
  check_score(score, op);
  check.rank({"score", score.w}, {2});
  check_block(check, block);
  const std::int64_t rows = score.w.shape[0], cols = score.w.shape[1];
  const std::int64_t tall = divide_up(rows, block.rows), wide = divide_up(cols, block.cols);
  const DType type = dtype_of(score);
  if (out.dtype != type) {
    check.type_error(std::string("out.dtype is ") + name_of(out.dtype) + ", expected " +
                     name_of(type));
  }
  check.device({"out", out}, score.w.device, "score");
  check.shape({"out", out}, {tall, wide});
  require_contiguous(check, {"out", out});
  check_apart(check, score, out);
  if (tall * wide == 0) return;
  ask_for_huge_pages(out.data, tall * wide * size_of(type));
  const ScoreTiles tiles(score);
  const std::int64_t width = std::min(block.cols, cols);
  for_tasks(tall, 0.3 * static_cast<double>(rows * cols), [&](std::int64_t row) {
    const std::int64_t first = row * block.rows, count = std::min(block.rows, rows - first);
    const ScoreTile tile(tiles, first * cols, count * cols);
    const Scratch sums((cols + 2 * width) * size_of(type));
    pattern_kernels().block_pool(
        {.score = tile.data(),
         .type = tile.type(),
         .magnitude = tile.magnitude(),
         .pool = static_cast<Pool>(reduce),
         .rows = count,
         .cols = cols,
         .width = width,
         .out = static_cast<std::byte*>(out.data) + row * wide * size_of(type),
         .scratch = sums.data()});
  });
}

void expand_blocks(const TensorView& mask, BlockShape block, const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("expand_blocks");
  const auto is_mask = [&](const Argument& x) {
    if (x.view.dtype != DType::boolean && x.view.dtype != DType::u8) {
      check.type_error(std::string(x.name) + ".dtype is " + name_of(x.view.dtype) +
                       ", expected bool");
    }
    check.device(x, mask.device, "mask");
    check.rank(x, {2});
    require_contiguous(check, x);
  };
  is_mask({"mask", mask});
  is_mask({"out", out});
  check_block(check, block);
  const std::int64_t rows = out.shape[0], cols = out.shape[1];
  const std::int64_t wide = divide_up(cols, block.cols);
  check.shape({"mask", mask}, {divide_up(rows, block.rows), wide});
  check.writable({"out", out}, {{"mask", mask}});
  if (rows * cols == 0) return;
  const auto* from = static_cast<const std::uint8_t*>(mask.data);
  auto* to = static_cast<std::uint8_t*>(out.data);
  ask_for_huge_pages(to, rows * cols);
  for_tasks(mask.shape[0], 0.1 * static_cast<double>(rows * cols), [&](std::int64_t i) {
    const std::int64_t first = i * block.rows, end = std::min(first + block.rows, rows);
    std::uint8_t* row = to + first * cols;
    const std::uint8_t* kept = from + i * wide;
    std::int64_t j = cols / block.cols;
    // Narrow blocks: what is written behind one is the next one's.
    if (block.cols == 1) {
      spread<std::uint8_t>(kept, j, row);
    } else if (block.cols == 2) {
      spread<std::uint16_t>(kept, j, row);
    } else if (block.cols == 4) {
      spread<std::uint32_t>(kept, j, row);
    } else if (block.cols == 8) {
      spread<std::uint64_t>(kept, j, row);
    } else {
      j = 0;
    }
    if (j == 0 && block.cols <= kNarrow) {
      for (; j * block.cols + kNarrow <= cols; ++j) {
        std::memset(row + j * block.cols, kept[j] != 0, kNarrow);
      }
    }
    for (; j < wide; ++j) {
      std::memset(row + j * block.cols, kept[j] != 0,
                  static_cast<std::size_t>(std::min(block.cols, cols - j * block.cols)));
    }
    for (std::int64_t r = first + 1; r < end; ++r) {
      std::memcpy(to + r * cols, row, static_cast<std::size_t>(cols));
    }
  });
}

}  // namespace gossamer::prune
