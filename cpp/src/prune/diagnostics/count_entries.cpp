#include <algorithm>
#include <numeric>
#include <vector>

#include "base/floats.h"
#include "base/work.h"
#include "gossamer/detail/diagnostics_checks.h"

namespace gossamer::prune {
using namespace detail;
namespace {

/// The arrays of a CSR or BSR matrix; a CSR's blocks are 1 x 1.
struct Blocks {
  const TensorView& indptr;
  const TensorView& indices;
  const TensorView& values;
  std::int64_t rows, cols, block_rows, block_cols;
};

/// Adds the nonzeros of block rows [first, last) to counts.
template <class I, class T>
void count_rows(const Blocks& a, const Grid& grid, std::int64_t first, std::int64_t last,
                std::int64_t* counts) {
  const I* indptr = static_cast<const I*>(a.indptr.data);
  const I* indices = static_cast<const I*>(a.indices.data);
  const T* value = static_cast<const T*>(a.values.data);
  const std::int64_t size = a.block_rows * a.block_cols;
  for (std::int64_t i = first; i < last; ++i) {
    for (std::int64_t r = 0; r < a.block_rows; ++r) {
      std::int64_t* row = counts + (i * a.block_rows + r) / grid.rows * grid.across;
      for (auto p = static_cast<std::int64_t>(indptr[i]); p < indptr[i + 1]; ++p) {
        const T* line = value + p * size + r * a.block_cols;
        for (std::int64_t c = 0; c < a.block_cols; ++c) {
          const std::int64_t col = static_cast<std::int64_t>(indices[p]) * a.block_cols + c;
          const std::int64_t at = grid.across == 1 ? 0 : grid.cols == 1 ? col : col / grid.cols;
          row[at] += static_cast<T>(line[c] << 1) != 0;  // all bits but the sign
        }
      }
    }
  }
}

template <class I, class T>
void count_as(const Blocks& a, const Grid& grid, std::int64_t* counts) {
  const std::int64_t rows = a.rows / a.block_rows;  // of blocks
  const std::int64_t entries = a.values.numel(), size = grid.down * grid.across;
  // Block rows that share no count with others.
  const std::int64_t apart = grid.rows >= a.rows ? std::max<std::int64_t>(rows, 1)
                                                 : grid.rows / std::gcd(grid.rows, a.block_rows);
  constexpr std::int64_t kPieces = 16;
  const double work = 1.5 * static_cast<double>(entries) + static_cast<double>(rows);
  std::fill_n(counts, size, std::int64_t{0});
  if (apart * 4 > rows && size * kPieces <= entries) {
    // Few: pieces count for themselves, and the sums are whole numbers in any order.
    std::vector<std::vector<std::int64_t>> own(kPieces);
    for_tasks(kPieces, work, [&](std::int64_t piece) {
      auto& mine = own[static_cast<std::size_t>(piece)];
      mine.assign(static_cast<std::size_t>(size), 0);
      count_rows<I, T>(a, grid, rows * piece / kPieces, rows * (piece + 1) / kPieces, mine.data());
    });
    for (const auto& mine : own) {
      for (std::size_t i = 0; i < mine.size(); ++i) counts[i] += mine[i];
    }
    return;
  }
  const std::int64_t step = std::max<std::int64_t>(rows / 64 / apart, 1) * apart;
  for_tasks((rows + step - 1) / step, work, [&](std::int64_t task) {
    count_rows<I, T>(a, grid, task * step, std::min(rows, (task + 1) * step), counts);
  });
}

template <class I>
void count_of(const Blocks& a, const Grid& grid, std::int64_t* counts) {
  switch (size_of(a.values.dtype)) {
    case 8:
      return count_as<I, std::uint64_t>(a, grid, counts);
    case 4:
      return count_as<I, std::uint32_t>(a, grid, counts);
    default:
      return count_as<I, std::uint16_t>(a, grid, counts);
  }
}

void count(const Blocks& a, const Grid& grid, const TensorView& counts) {
  if (grid.down * grid.across == 0) return;
  auto* out = static_cast<std::int64_t*>(counts.data);
  if (a.indices.dtype == DType::i64) {
    count_of<std::int64_t>(a, grid, out);
  } else {
    count_of<std::int32_t>(a, grid, out);
  }
}

}  // namespace

void nnz_stats(const Csr& a, const CountBlock& block, const TensorView& counts) {
  const FloatEnvironment floats;
  const Grid grid = check_nnz_stats(Checker("nnz_stats"), a, block, counts);
  count({a.indptr(), a.indices(), a.values(), a.rows(), a.cols(), 1, 1}, grid, counts);
}

void nnz_stats(const Bsr& a, const CountBlock& block, const TensorView& counts) {
  const FloatEnvironment floats;
  const Grid grid = check_nnz_stats(Checker("nnz_stats"), a, block, counts);
  count({a.indptr(), a.indices(), a.blocks(), a.rows(), a.cols(), a.block_rows(), a.block_cols()},
        grid, counts);
}

}  // namespace gossamer::prune
