// Finds the blocks of a dense matrix that hold a nonzero: the bits (without signs) of all rows of a
// row of blocks are or'ed into one row, and that row is or'ed block by block. Also transposes
// blocks.

#include "formats/bsr/args.h"
#include "simd/simd.h"

namespace gossamer::detail::GOSSAMER_LEVEL {
namespace {

template <class U>
void find(const BsrFindArgs& a) {
  constexpr int W = kLanes<U>;
  const U* source = static_cast<const U*>(a.source);
  U* fold = static_cast<U*>(a.fold);
  constexpr U kMask = static_cast<U>(sizeof(U) == 1 ? ~U{0} : static_cast<U>(~U{0}) >> 1);
  std::int64_t c = 0;
  for (; c + W <= a.cols; c += W) {
    Vec<U, W> any = {};
    for (std::int64_t r = 0; r < a.rows; ++r) any |= load<W>(source + r * a.stride + c);
    store<W>(fold + c, any & kMask);
  }
  for (; c < a.cols; ++c) {
    U any = 0;
    for (std::int64_t r = 0; r < a.rows; ++r) any = static_cast<U>(any | source[r * a.stride + c]);
    fold[c] = any & kMask;
  }
  const std::int64_t blocks = a.cols / a.block_cols;
  for (std::int64_t j = 0; j < blocks; ++j) {
    const U* from = fold + j * a.block_cols;
    U any = 0;
    for (std::int64_t k = 0; k < a.block_cols; ++k) any = static_cast<U>(any | from[k]);
    a.kept[j] = any != 0;
  }
}

template <class U>
void transpose_bits(const BsrTransposeBlockArgs& a) {
  const U* source = static_cast<const U*>(a.source);
  U* out = static_cast<U*>(a.out);
  for (std::int64_t c = 0; c < a.cols; ++c) {
    for (std::int64_t r = 0; r < a.rows; ++r) out[c * a.rows + r] = source[r * a.cols + c];
  }
}

}  // namespace

void bsr_find(const BsrFindArgs& a);
void bsr_find(const BsrFindArgs& a) {
  switch (a.size) {
    case 1:
      return find<std::uint8_t>(a);
    case 2:
      return find<std::uint16_t>(a);
    case 4:
      return find<std::uint32_t>(a);
    default:
      return find<std::uint64_t>(a);
  }
}

void bsr_transpose_block(const BsrTransposeBlockArgs& a);
void bsr_transpose_block(const BsrTransposeBlockArgs& a) {
  switch (a.size) {
    case 2:
      return transpose_bits<std::uint16_t>(a);
    case 4:
      return transpose_tile(static_cast<const float*>(a.source), a.cols, a.rows, a.cols,
                            static_cast<float*>(a.out), a.rows);
    default:
      return transpose_tile(static_cast<const double*>(a.source), a.cols, a.rows, a.cols,
                            static_cast<double*>(a.out), a.rows);
  }
}

}  // namespace gossamer::detail::GOSSAMER_LEVEL
