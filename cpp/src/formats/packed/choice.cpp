#include "formats/packed/choice.h"

#include "base/levels.h"
#include "formats/packed/layouts.h"

namespace gossamer::detail {
namespace {

/// Does this level multiply pairs of this type?
bool has_pairs(const PackedShape& a) { return a.dtype == DType::bf16 && level() >= Level::bf16; }

/// The density from which on bits are the fastest, with pairs, for several columns of B. A row of
/// few columns is padded to 32 of them.
double bits_from(const PackedShape& a, std::int64_t n) {
  constexpr double kNever = 2;
  if (!has_pairs(a) || n == 1 || a.cols < 64) return kNever;
  if (level() < Level::amx) return n <= 4 ? 0.18 : n <= 12 ? 0.12 : 0.26;
  // With tiles, from a Sapphire Rapids' rates (one thread, 4096 × 4096): 17 G elements/s expanded,
  // 2.1 TFLOP/s, 9.5 GB/s of memory, beside the other layouts' times there. Never measured whole.
  return n <= 4 ? 0.15 : n <= 32 ? 0.06 : n <= 64 ? 0.1 : 0.14;
}

/// The density from which on the dense layout is the fastest: where its zeros cost less than what
/// the others spend on each entry. Of narrow matrices, its bits would take more bytes than they
/// save.
double dense_from(const PackedShape& a, std::int64_t n) {
  constexpr double kNever = 2;
  if (a.cols < 64) return kNever;
  if (a.dtype == DType::f64) return 0.65;
  if (has_pairs(a) && n > 1) return n > 16 ? 0.9 : 0.995;
  if (vector_bytes() < 64 || n > 8) return 0.6;
  // Strips of 16-bit values come near the memory's rate even without a zero.
  if (size_of(a.dtype) == 2) return 0.98;
  // One column takes as long as reading the weights, of which strips have five bytes for four.
  return n == 1 ? 0.75 : n == 2 ? 0.88 : 0.95;
}

}  // namespace

// The bounds were measured on a Zen 4 (two cores, AVX-512) with 4096 × 4096 matrices of 50 to 98 %
// zeros and 1 to 512 columns of B; docs/performance.md has the table of products. Those of the
// dense layout on a Zen 5 (one core) with 2048 × 2048 matrices, of bits with 2048 × 4096.
LayoutChoice choose_layout(const PackedShape& a, std::int64_t n) {
  const double d = a.density();
  // Strips cost something for each group of rows, blocks for each segment. With very few entries
  // rows win; for one column a little earlier, and earlier still where all of B is in cache anyway.
  if (d < (n == 1 ? 0.018 : n > 8 && a.cols <= 1024 ? 0.03 : 0.012)) {
    return {kLayout<RowsLayout>, "few entries: row order costs the least beside them"};
  }
  if (d >= dense_from(a, n)) {
    return {kLayout<DenseLayout>, "few zeros: multiplying by them costs less than skipping them"};
  }
  if (d >= bits_from(a, n)) {
    return {kLayout<BitsLayout>, "bfloat16: rows are expanded and multiplied as dense pairs"};
  }
  const bool has_strips = vector_bytes() == 64 && a.dtype != DType::f64;
  if (has_strips && (n <= 4 || (n <= 8 && d > kDenseStrips))) {
    return {kLayout<StripsLayout>, "few columns of B: entries pick them from registers"};
  }
  if (n == 1) return {kLayout<RowsLayout>, "one column of B, and no registers to pick it from"};
  return {kLayout<BlocksLayout>, "many columns of B: tiles of it stay in the first cache"};
}

}  // namespace gossamer::detail
