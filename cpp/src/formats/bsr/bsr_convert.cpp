#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/cut.h"
#include "base/floats.h"
#include "base/scratch.h"
#include "formats/bsr/kernels.h"
#include "formats/compressed.h"
#include "gossamer/bsr.h"
#include "gossamer/detail/format_checks.h"

namespace gossamer {
using namespace detail;
namespace {

/// Copies `rows` pieces of `bytes` each.
template <std::size_t Bytes>
void copy_pieces(std::byte* to, std::int64_t to_pitch, const std::byte* from,
                 std::int64_t from_pitch, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * to_pitch, from + r * from_pitch, Bytes);
  }
}

void copy_block(std::byte* to, std::int64_t to_pitch, const std::byte* from,
                std::int64_t from_pitch, std::int64_t rows, std::int64_t bytes) {
  // A call for two bytes costs ten times the copy.
  switch (bytes) {
    case 2:
      return copy_pieces<2>(to, to_pitch, from, from_pitch, rows);
    case 4:
      return copy_pieces<4>(to, to_pitch, from, from_pitch, rows);
    case 8:
      return copy_pieces<8>(to, to_pitch, from, from_pitch, rows);
    case 16:
      return copy_pieces<16>(to, to_pitch, from, from_pitch, rows);
    case 32:
      return copy_pieces<32>(to, to_pitch, from, from_pitch, rows);
    case 64:
      return copy_pieces<64>(to, to_pitch, from, from_pitch, rows);
    default:
      for (std::int64_t r = 0; r < rows; ++r) {
        std::memcpy(to + r * to_pitch, from + r * from_pitch, static_cast<std::size_t>(bytes));
      }
  }
}

/// Which blocks of block row `i` hold an element that is kept: a byte for each of [cols/bc].
const std::uint8_t* find_blocks(const TensorView& w, const std::optional<TensorView>& mask,
                                std::int64_t br, std::int64_t bc, std::int64_t i,
                                const Scratch& kept, const Scratch& fold) {
  const TensorView& source = mask ? *mask : w;
  const std::int64_t size = size_of(source.dtype), stride = row_stride(source);
  bsr_kernels().bsr_find(
      {.source = static_cast<const std::byte*>(source.data) + i * br * stride * size,
       .size = static_cast<int>(size),
       .stride = stride,
       .rows = br,
       .cols = w.shape[1],
       .block_cols = bc,
       .fold = fold.data(),
       .kept = kept.as<std::uint8_t>()});
  return kept.as<std::uint8_t>();
}

}  // namespace

std::int64_t bsr_count(const TensorView& w, const std::optional<TensorView>& mask,
                       std::int64_t block_rows, std::int64_t block_cols, const TensorView& indptr) {
  const FloatEnvironment floats;
  const Checker check("BSR.from_dense");
  check_bsr_count(check, w, mask, block_rows, block_cols, indptr);
  const std::int64_t rows = w.shape[0] / block_rows, cols = w.shape[1];

  std::vector<std::int64_t> counts(static_cast<std::size_t>(rows));
  const EqualRanges tasks = equal_rows(rows, w.numel());
  const std::int64_t across = cols / block_cols;
  parallel_for(tasks.count, [&](std::int64_t task) {
    const Scratch kept(across);
    const Scratch fold(cols * size_of(w.dtype));
    for (std::int64_t i = tasks.begin(task); i < tasks.end(task); ++i) {
      const auto* found = find_blocks(w, mask, block_rows, block_cols, i, kept, fold);
      counts[static_cast<std::size_t>(i)] = std::count(found, found + across, std::uint8_t{1});
    }
  });
  std::int64_t total = 0;
  for (const std::int64_t count : counts) total += count;
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  if (indptr.dtype == DType::i32 && total > kMax) {
    check.value_error("w has " + text(total) + " blocks to keep, expected at most " + text(kMax) +
                      " for int32 indices");
  }
  with_index_type(indptr.dtype, [&](auto type) {
    auto* begin = static_cast<decltype(type)*>(indptr.data);
    begin[0] = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      begin[i + 1] = static_cast<decltype(type)>(begin[i] + counts[i]);
    }
  });
  return total;
}

void bsr_fill(const TensorView& w, const std::optional<TensorView>& mask, const TensorView& indptr,
              const TensorView& indices, const TensorView& blocks) {
  const FloatEnvironment floats;
  const Checker check("BSR.from_dense");
  check_bsr_fill(check, w, mask, indptr, indices, blocks);
  const std::int64_t br = blocks.shape[1], bc = blocks.shape[2], count = blocks.shape[0];
  const std::int64_t rows = w.shape[0] / br, cols = w.shape[1];

  check_indptr(check, indptr, rows, count);
  use_huge_pages(blocks);
  const std::int64_t size = size_of(w.dtype), pitch = row_stride(w) * size;
  const std::int64_t across = cols / bc, block_bytes = br * bc * size;
  const EqualRanges tasks = equal_rows(rows, w.numel());
  std::vector<std::int64_t> bad_rows(static_cast<std::size_t>(tasks.count), -1);
  with_index_type(indptr.dtype, [&](auto type) {
    using I = decltype(type);
    const auto* begin = static_cast<const I*>(indptr.data);
    parallel_for(tasks.count, [&](std::int64_t task) {
      const Scratch kept(across);
      const Scratch fold(cols * size_of(w.dtype));
      for (std::int64_t i = tasks.begin(task); i < tasks.end(task); ++i) {
        const auto* found = find_blocks(w, mask, br, bc, i, kept, fold);
        if (std::count(found, found + across, std::uint8_t{1}) != begin[i + 1] - begin[i]) {
          bad_rows[static_cast<std::size_t>(task)] = i;
          return;
        }
        std::int64_t p = begin[i];
        for (std::int64_t j = 0; j < across; ++j) {
          if (found[j] == 0) continue;
          static_cast<I*>(indices.data)[p] = static_cast<I>(j);
          auto* to = static_cast<std::byte*>(blocks.data) + p * block_bytes;
          copy_block(to, bc * size,
                     static_cast<const std::byte*>(w.data) + i * br * pitch + j * bc * size, pitch,
                     br, bc * size);
          if (mask) {
            for (std::int64_t r = 0; r < br; ++r) {
              const auto* keep = mask_data(mask) + (i * br + r) * row_stride(*mask) + j * bc;
              for (std::int64_t c = 0; c < bc; ++c) {
                if (keep[c] == 0) {
                  std::memset(to + (r * bc + c) * size, 0, static_cast<std::size_t>(size));
                }
              }
            }
          }
          ++p;
        }
      }
    });
  });
  for (const std::int64_t row : bad_rows) {
    if (row >= 0) {
      check.value_error("indptr does not match w in block row " + text(row) +
                        ", expected bsr_count's result for the same arguments, unchanged since");
    }
  }
}

void bsr_to_dense(const Bsr& a, const TensorView& out) {
  const FloatEnvironment floats;
  check_bsr_to_dense(Checker("BSR.to_dense"), a, out);

  use_huge_pages(out);
  const std::int64_t br = a.block_rows(), bc = a.block_cols(), size = size_of(a.dtype());
  const std::int64_t pitch = row_stride(out) * size;
  const EqualRanges tasks = equal_rows(a.rows() / br, out.numel());
  with_index_type(a.index_dtype(), [&](auto type) {
    using I = decltype(type);
    const auto* indptr = static_cast<const I*>(a.indptr().data);
    const auto* indices = static_cast<const I*>(a.indices().data);
    const auto* blocks = static_cast<const std::byte*>(a.blocks().data);
    parallel_for(tasks.count, [&](std::int64_t task) {
      for (std::int64_t i = tasks.begin(task); i < tasks.end(task); ++i) {
        auto* to = static_cast<std::byte*>(out.data) + i * br * pitch;
        for (std::int64_t r = 0; r < br && a.cols() > 0; ++r) {
          std::memset(to + r * pitch, 0, static_cast<std::size_t>(a.cols() * size));
        }
        for (std::int64_t p = indptr[i]; p < indptr[i + 1]; ++p) {
          copy_block(to + static_cast<std::int64_t>(indices[p]) * bc * size, pitch,
                     blocks + p * br * bc * size, bc * size, br, bc * size);
        }
      }
    });
  });
}

void bsr_transpose(const Bsr& a, const TensorView& indptr, const TensorView& indices,
                   const std::optional<TensorView>& blocks, const TensorView& permutation) {
  const FloatEnvironment floats;
  check_bsr_transpose(Checker("BSR.transpose"), a, indptr, indices, blocks, permutation);

  const std::int64_t br = a.block_rows(), bc = a.block_cols(), count = a.nblocks();
  if (blocks) use_huge_pages(*blocks);
  // Its blocks as entries: no value is read.
  const Csr pattern(a.indptr(), a.indices(),
                    make_view(a.blocks().data, a.dtype(), {count}, a.device()), a.rows() / br,
                    a.cols() / bc, Csr::Check::trust);
  csr_transpose(pattern, indptr, indices, std::nullopt, permutation);
  if (!blocks) return;
  const EqualRanges tasks{count, task_count(a.nnz())};
  with_index_type(a.index_dtype(), [&](auto type) {
    const auto* from = static_cast<const decltype(type)*>(permutation.data);
    parallel_for(tasks.count, [&](std::int64_t task) {
      const std::int64_t bytes = br * bc * size_of(a.dtype());
      for (std::int64_t p = tasks.begin(task); p < tasks.end(task); ++p) {
        bsr_kernels().bsr_transpose_block(
            {.source = static_cast<const std::byte*>(a.blocks().data) + from[p] * bytes,
             .size = static_cast<int>(size_of(a.dtype())),
             .rows = br,
             .cols = bc,
             .out = static_cast<std::byte*>(blocks->data) + p * bytes});
      }
    });
  });
}

}  // namespace gossamer
