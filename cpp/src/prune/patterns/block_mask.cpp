#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/buffer.h"
#include "base/floats.h"
#include "base/numbers.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/detail/score.h"
#include "gossamer/prune/patterns.h"
#include "prune/masks.h"
#include "prune/patterns/kernels.h"

namespace gossamer::prune {
using namespace detail;
namespace {

/// Blocks of at most this many columns are filled by stores of this width.
constexpr std::int64_t kNarrow = 16;

/// Writes each byte, as 0 or 1, as often as a word is wide.
template <class Word>
void spread(const std::uint8_t* from, std::int64_t count, std::uint8_t* to) {
  constexpr auto kOnes = static_cast<Word>(std::uint64_t{0x0101010101010101});
  for (std::int64_t i = 0; i < count; ++i) {
    const auto word = static_cast<Word>(from[i] != 0 ? kOnes : 0);
    std::memcpy(to + i * static_cast<std::int64_t>(sizeof(Word)), &word, sizeof(Word));
  }
}

/// Pools one row of blocks, and repairs the results for which squares or sums left the range of
/// Real (float or double): those blocks are pooled again, scaled by a power of two.
template <class Real>
class BlockRow {
 public:
  BlockRow(const ScoreTile& tile, Reduce reduce, std::int64_t rows, std::int64_t cols,
           std::int64_t width)
      : tile_(tile), reduce_(reduce), rows_(rows), cols_(cols), width_(width) {
    // Squares below the least normal number lose bits, which may add up over a block.
    if (reduce == Reduce::l2) {
      least_ =
          std::sqrt(static_cast<Real>(rows * width)) * std::sqrt(std::numeric_limits<Real>::min());
    }
  }

  void pool(Real* out) const {
    run(tile_.data(), tile_.type(), tile_.magnitude(), cols_, out);
    if (reduce_ != Reduce::l2 && reduce_ != Reduce::mean) return;
    const std::int64_t blocks = ceil_div(cols_, width_);
    bool any = false;
    for (std::int64_t j = 0; j < blocks; ++j) any |= is_suspect(out[j]);
    if (!any || !has_extremes()) return;
    for (std::int64_t j = 0; j < blocks; ++j) {
      if (is_suspect(out[j])) repair(j, out[j]);
    }
  }

 private:
  void run(const void* score, DType type, bool magnitude, std::int64_t cols, Real* out) const {
    const Scratch sums((cols + 2 * width_) * static_cast<std::int64_t>(sizeof(Real)));
    pattern_kernels().block_pool({.score = score,
                                  .type = type,
                                  .magnitude = magnitude,
                                  .reduce = reduce_,
                                  .rows = rows_,
                                  .cols = cols,
                                  .width = width_,
                                  .out = out,
                                  .scratch = sums.data()});
  }

  [[nodiscard]] bool is_suspect(Real result) const {
    const Real size = std::abs(result);
    return !(size >= least_ && size <= kMax);
  }

  /// Whether an element, finite and not 0, is so small or so large that a result can be off. Zeros
  /// alone make suspects of whole blocks, and pruned matrices have many.
  [[nodiscard]] bool has_extremes() const {
    const Real count = static_cast<Real>(rows_ * width_);
    const Real high = reduce_ == Reduce::l2 ? std::sqrt(kMax / count) : kMax / count;
    const Scratch row(cols_ * static_cast<std::int64_t>(sizeof(Real)));
    const Real* x = row.as<Real>();
    for (std::int64_t r = 0; r < rows_; ++r) {
      widen(at(r, 0), tile_.type(), cols_, row.data());
      bool any = false;
      for (std::int64_t c = 0; c < cols_; ++c) {
        const Real size = std::abs(x[c]);
        any |= (size > 0 && size < least_) || (size > high && size <= kMax);
      }
      if (any) return true;
    }
    return false;
  }

  void repair(std::int64_t j, Real& result) const {
    const std::int64_t first = j * width_, cols = std::min(width_, cols_ - first);
    const Scratch scaled(rows_ * cols * static_cast<std::int64_t>(sizeof(Real)));
    Real* x = scaled.as<Real>();
    widen(at(0, first), tile_.type(), cols_, rows_, cols, x);
    Real largest = 0;
    for (std::int64_t i = 0; i < rows_ * cols; ++i) {
      if (!(std::abs(x[i]) <= kMax)) return;  // infinity and NaN spread as they should
      largest = std::max(largest, std::abs(x[i]));
    }
    if (largest == 0) return;
    const int exponent = std::ilogb(largest);
    for (std::int64_t i = 0; i < rows_ * cols; ++i) x[i] = std::ldexp(x[i], -exponent);
    run(x, sizeof(Real) == 8 ? DType::f64 : DType::f32, tile_.magnitude(), cols, &result);
    result = std::ldexp(result, exponent);
  }

  [[nodiscard]] const std::byte* at(std::int64_t row, std::int64_t col) const {
    return static_cast<const std::byte*>(tile_.data()) +
           (row * cols_ + col) * size_of(tile_.type());
  }

  static constexpr Real kMax = std::numeric_limits<Real>::max();
  const ScoreTile& tile_;
  Reduce reduce_;
  std::int64_t rows_, cols_, width_;
  Real least_ = 0;  // smaller results may be off
};

}  // namespace

void block_pool(const Score& score, BlockShape block, Reduce reduce, const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("block_pool");
  block = check_block_pool(check, score, block, out);
  const std::int64_t rows = score.w.shape[0], cols = score.w.shape[1];
  const std::int64_t tall = out.shape[0], wide = out.shape[1];
  const DType type = out.dtype;
  if (tall * wide == 0) return;
  ask_for_huge_pages(out.data, tall * wide * size_of(type));
  const ScoreTiles tiles(score);
  for_tasks(tall, 0.3 * static_cast<double>(rows * cols), [&](std::int64_t row) {
    const std::int64_t first = row * block.rows, count = std::min(block.rows, rows - first);
    const ScoreTile tile(tiles, first * cols, count * cols);
    if (type == DType::f64) {
      BlockRow<double>(tile, reduce, count, cols, block.cols)
          .pool(static_cast<double*>(out.data) + row * wide);
    } else {
      BlockRow<float>(tile, reduce, count, cols, block.cols)
          .pool(static_cast<float*>(out.data) + row * wide);
    }
  });
}

void expand_blocks(const TensorView& mask, BlockShape block, const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check("expand_blocks");
  block = check_expand_blocks(check, mask, block, out);
  const std::int64_t rows = out.shape[0], cols = out.shape[1], wide = mask.shape[1];
  if (rows * cols == 0) return;
  const auto* from = static_cast<const std::uint8_t*>(mask.data);
  auto* to = static_cast<std::uint8_t*>(out.data);
  ask_for_huge_pages(to, rows * cols);
  for_tasks(mask.shape[0], 0.1 * static_cast<double>(rows * cols), [&](std::int64_t i) {
    const std::int64_t first = i * block.rows, end = std::min(first + block.rows, rows);
    std::uint8_t* row = to + first * cols;
    const std::uint8_t* kept = from + i * wide;
    std::int64_t j = cols / block.cols;
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
      // What is written past a block is overwritten by the next one.
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
