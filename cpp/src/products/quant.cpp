// spmm and linear of group-quantised matrices. For a few columns of B the codes are decoded in
// registers; for more, a strip of rows at a time is decoded and multiplied as if it were dense, or,
// where few groups are left, like blocks of one row.

#include "formats/quant/quant.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/cut.h"
#include "base/floats.h"
#include "base/scratch.h"
#include "formats/quant/kernels.h"
#include "gossamer/detail/product_checks.h"
#include "gossamer/products.h"
#include "products/bf16_product.h"
#include "products/block_product.h"
#include "products/dense_product.h"
#include "products/kernels.h"
#include "products/tiles.h"

namespace gossamer {
using namespace detail;
namespace {

/// The columns of B as float32 up to a whole number of groups, each 16 rows in the order in which
/// the kernel for AVX-512 decodes codes of 4 bits.
class DecodedColumns {
 public:
  DecodedColumns(const GroupQuant& a, const Product& product)
      : length_(groups_across(a.cols(), a.group()) * a.group()), copy_(length_ * product.n * 4) {
    const Columns columns(product);
    for (std::int64_t n = 0; n < product.n; ++n) {
      const float* from = static_cast<const float*>(columns.data()) + n * columns.stride();
      float* to = copy_.as<float>() + n * length_;
      std::copy_n(from, product.k, to);
      std::fill(to + product.k, to + length_, 0.0F);
      if (a.bits() == 4 && vector_bytes() == 64) interleave(to);
    }
  }

  [[nodiscard]] const float* data() const { return copy_.as<float>(); }
  [[nodiscard]] std::int64_t stride() const { return length_; }

 private:
  void interleave(float* x) const {
    for (std::int64_t i = 0; i < length_; i += 16) {
      float both[16];
      for (int lane = 0; lane < 8; ++lane) {
        both[2 * lane] = x[i + lane];
        both[2 * lane + 1] = x[i + 8 + lane];
      }
      std::copy_n(both, 16, x + i);
    }
  }

  std::int64_t length_;
  Scratch copy_;
};

double cost(const GroupQuant& a, const Product& product) {
  return static_cast<double>(a.nnz()) * (0.07 + 0.02 * static_cast<double>(product.n));
}

void multiply_few(const GroupQuant& a, const Product& product) {
  const DecodedColumns columns(a, product);
  const auto strip = [&](std::int64_t row0, std::int64_t row1, std::int64_t first) {
    const std::int64_t rows = row1 - row0, batch = std::min(kBatch, product.n - first);
    const Scratch sums(batch * rows * 4);
    product_kernels().quant_dots({.indptr = static_cast<const std::int32_t*>(a.indptr().data),
                                  .indices = static_cast<const std::uint16_t*>(a.indices().data),
                                  .groups = groups_from(a, 0),
                                  .row0 = row0,
                                  .row1 = row1,
                                  .x = columns.data() + first * columns.stride(),
                                  .ldx = columns.stride(),
                                  .y = sums.as<float>(),
                                  .ldy = rows,
                                  .batch = static_cast<int>(batch)});
    store(product, Sums::column_major, sums.data(), rows, row0, rows, first, batch);
  };
  for_ranges(cut_block_rows(group_view(a)), cost(a, product),
             [&](std::int64_t begin, std::int64_t end) {
               constexpr std::int64_t kRows = 64;
               for (std::int64_t row = begin; row < end; row += kRows) {
                 for (std::int64_t first = 0; first < product.n; first += kBatch) {
                   strip(row, std::min(end, row + kRows), first);
                 }
               }
             });
}

/// Is it faster to decode the codes anew for each four columns of B than to multiply by a tile?
/// With all groups, as many columns take as long as a tile of 16, 32 or 64 as stand below; of fewer
/// groups, more (Xeon, family 6 model 207, 2048 × 4096, groups of 16 to 128; with AVX2, not
/// measured apart).
bool has_few(const GroupQuant& a, const Product& product) {
  if (is_f64(product) || product_kernels().quant_dots == nullptr) return false;
  if (product.n <= kVectors) return true;
  if (has_bf16(product) || product.n > 64) return false;
  const std::int64_t columns = product.n <= 16 ? 11 : product.n <= 32 ? 14 : 20;
  return product.n * a.groups() <= columns * a.rows() * groups_across(a.cols(), a.group());
}

/// For up to three columns decoding to float32 is as fast, and so it is for groups of 16 (Zen 5).
bool has_few_pairs(const GroupQuant& a, const Product& product) {
  return has_bf16(product) && !has_amx_tiles() && product.n > 3 && product.n <= kMostDots &&
         a.group() >= 32;
}

/// The same with pairs of bfloat16: integers, whose sums over a group are scaled.
void multiply_few_pairs(const GroupQuant& a, const Product& product) {
  const std::int64_t depth = bf16_depth(groups_across(a.cols(), a.group()) * a.group());
  const std::int64_t batch = ceil_div(product.n, 4) * 4;
  const Scratch columns(batch * depth * 2);
  copy_bf16_columns(product, batch, depth, columns.as<std::uint16_t>());
  const auto strip = [&](std::int64_t row0, std::int64_t row1) {
    const std::int64_t rows = row1 - row0;
    const Scratch partial(rows * batch * 64), sums(rows * batch * 4);
    product_kernels().bf16_group_dots(
        {.indptr = static_cast<const std::int32_t*>(a.indptr().data),
         .indices = static_cast<const std::uint16_t*>(a.indices().data),
         .groups = groups_from(a, 0),
         .row0 = row0,
         .row1 = row1,
         .x = columns.data(),
         .depth = depth,
         .partial = partial.as<float>(),
         .y = sums.as<float>(),
         .ldy = rows,
         .batch = static_cast<int>(batch)});
    store(product, Sums::column_major, sums.data(), rows, row0, rows, 0, product.n);
  };
  for_ranges(cut_block_rows(group_view(a)), cost(a, product),
             [&](std::int64_t begin, std::int64_t end) {
               for (std::int64_t row = begin; row < end; row += kMostDotRows) {
                 strip(row, std::min(end, row + kMostDotRows));
               }
             });
}

/// The product with zeros below B, so that it has `rows` rows.
class PaddedProduct {
 public:
  PaddedProduct(const Product& product, std::int64_t rows) : product_(product) {
    if (product.k == rows) return;
    DenseView& b = product_.b;
    const std::int64_t size = size_of(b.type), n = product.n;
    const std::int64_t lines = b.transposed ? n : rows, length = b.transposed ? rows : n;
    const std::int64_t given_lines = b.transposed ? n : product.k;
    const std::int64_t given = b.transposed ? product.k : n;
    copy_.emplace(lines * length * size);
    for (std::int64_t i = 0; i < lines; ++i) {
      std::byte* to = copy_->data() + i * length * size;
      const std::int64_t copied = i < given_lines ? given * size : 0;
      if (copied > 0) {
        std::memcpy(to, at(b.data, i * b.stride * size), static_cast<std::size_t>(copied));
      }
      std::fill(to + copied, to + length * size, std::byte{0});
    }
    b.data = copy_->data();
    b.stride = length;
    product_.k = rows;
  }

  [[nodiscard]] const Product& product() const { return product_; }

 private:
  Product product_;
  std::optional<Scratch> copy_;
};

/// From this share of groups on, a dense kernel, which reads each element of B once for eight rows,
/// is faster than one that reads it for each group (Zen 5, 4096 × 4096, 32 to 512 columns of B).
constexpr double kDense = 0.25;

bool is_dense(const GroupQuant& a) {
  const double all =
      static_cast<double>(a.rows()) * static_cast<double>(groups_across(a.cols(), a.group()));
  return static_cast<double>(a.groups()) >= kDense * all;
}

/// Product.k is a whole number of groups, and B is finite: it meets the zeros of groups that are
/// not kept.
void multiply_decoded(const GroupQuant& a, const Product& product) {
  const RowsView grid = group_view(a);
  const std::int64_t bytes = product.k * real_size(product);
  multiply_dense(
      [&](std::int64_t row, std::int64_t count, void* memory) -> const void* {
        for (std::int64_t i = row; i < row + count; ++i) {
          std::byte* to = at(memory, (i - row) * bytes);
          std::fill_n(to, bytes, std::byte{0});
          const std::int64_t first = grid.pointer(i);
          quant_kernels().dequantise(
              {.groups = groups_from(a, first),
               .order = nullptr,
               .places = static_cast<const std::uint16_t*>(a.indices().data) + first,
               .count = grid.pointer(i + 1) - first,
               .out = to,
               .f64 = is_f64(product)});
        }
        return memory;
      },
      product);
}

/// How much of A is decoded at a time: rows that stay in L2, or, for 16 columns of B, a part of the
/// depth that stays in L1, which needs groups without gaps to be faster (Zen 5).
struct Parts {
  Parts(const GroupQuant& a, const Product& product, std::int64_t across) {
    constexpr std::int64_t kBytes = 448 << 10;
    depth = std::max<std::int64_t>(across, 1) * a.group();
    if (product.n <= 16 && a.groups() == a.rows() * across) {
      depth = std::min<std::int64_t>(depth, 512);
      step = depth;
      rows = 24;
    } else {
      step = 256;
      rows = std::clamp<std::int64_t>(kBytes / (2 * bf16_pitch(depth)) / 24 * 24, 24, 96);
    }
  }
  std::int64_t rows, depth;
  std::int64_t step;  // rows of B that stay in L1
};

/// The same with pairs of bfloat16: integers, whose sums over a group are scaled.
void multiply_pairs(const GroupQuant& a, const Product& product) {
  const std::int64_t across = groups_across(a.cols(), a.group());
  const auto* indptr = static_cast<const std::int32_t*>(a.indptr().data);
  const Parts parts(a, product, across);
  const std::int64_t groups = parts.depth / a.group(), pitch = bf16_pitch(parts.depth);
  const auto strip = [&](std::int64_t row, std::int64_t rows, const Bf16Panel& panel) {
    // With rows of zeros, since the kernel takes 12 at a time.
    const std::int64_t filled = ceil_div(rows, 12) * 12, sums_of_tile = filled * kWidestBf16;
    const Scratch numbers(filled * pitch * 2), scales(filled * groups * 4), next(rows * 8),
        memory(static_cast<std::int64_t>(panel.tiles.size()) * sums_of_tile * 4);
    const auto sums = [&](std::size_t t) {
      return memory.as<float>() + static_cast<std::int64_t>(t) * sums_of_tile;
    };
    std::fill_n(numbers.data() + rows * pitch * 2, (filled - rows) * pitch * 2, std::byte{0});
    std::fill_n(scales.as<float>() + rows * groups, (filled - rows) * groups, 0.0F);
    std::copy_n(indptr + row, rows, next.as<std::int64_t>());
    for (std::int64_t place = 0; place < across; place += groups) {
      const std::int64_t end = std::min(across, place + groups);
      product_kernels().bf16_from_groups(
          {.groups = groups_from(a, 0),
           .places = static_cast<const std::uint16_t*>(a.indices().data),
           .indptr = indptr + row,
           .rows = rows,
           .place0 = place,
           .place1 = end,
           .next = next.as<std::int64_t>(),
           .following = groups < across ? std::min(rows, product.m - row - rows) : 0,
           .to = numbers.data(),
           .ld = pitch,
           .scales = scales.as<float>(),
           .lds = groups});
      const std::int64_t first = place * a.group(), last = end * a.group();
      for (std::size_t t = 0; t < panel.tiles.size(); ++t) {
        const int tile = panel.tiles[t].tile;
        for (std::int64_t k = first; k < last; k += parts.step) {
          product_kernels().bf16_groups({.a = numbers.data() + (k - first) * 2,
                                         .lda = pitch,
                                         .scales = scales.as<float>() + (k - first) / a.group(),
                                         .lds = groups,
                                         .b = panel.data(t) + k * tile * 2,
                                         .rows = filled,
                                         .depth = std::min(parts.step, last - k),
                                         .group = static_cast<int>(a.group()),
                                         .tile = tile,
                                         .c = sums(t),
                                         .accumulate = k > 0});
        }
      }
    }
    for (std::size_t t = 0; t < panel.tiles.size(); ++t) {
      const Tile& tile = panel.tiles[t];
      store(product, Sums::row_major, sums(t), tile.tile, row, rows, tile.first, tile.width);
    }
  };
  for_bf16_panels(product, ceil_div(across * a.group(), 32) * 32, [&](const Bf16Panel& panel) {
    for_tasks(ceil_div(product.m, parts.rows), cost(a, product), [&](std::int64_t task) {
      const std::int64_t row = task * parts.rows;
      strip(row, std::min(parts.rows, product.m - row), panel);
    });
  });
}

void multiply(const GroupQuant& a, const Product& product, bool transpose) {
  compute(product, [&] {
    if (!transpose && has_few_pairs(a, product)) return multiply_few_pairs(a, product);
    if (!transpose && has_few(a, product)) return multiply_few(a, product);
    if (!transpose && product.n > kVectors && is_dense(a) && all_finite(product)) {
      if (has_bf16(product) && !has_amx_tiles() && a.cols() > 0) return multiply_pairs(a, product);
      const std::int64_t k = groups_across(a.cols(), a.group()) * a.group();
      return multiply_decoded(a, PaddedProduct(product, k).product());
    }
    const Buffer<std::int32_t> indices = wide_indices(a.indices());
    const QuantGroups groups = groups_from(a, 0);
    BlockOperand operand{
        .grid = group_view(a), .block_rows = 1, .block_cols = a.group(), .groups = &groups};
    operand.grid.kind = IndexKind::i32_i32;
    operand.grid.indices = indices.data();
    if (transpose) {
      operand.transpose();
      return multiply_blocks(operand, product);
    }
    multiply_blocks(operand, PaddedProduct(product, operand.grid.cols * a.group()).product());
  });
}

}  // namespace

void spmm(const GroupQuant& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Checker check("spmm");
  const Product product = check_spmm(check, describe(a), b, out, transpose_a, epilogue);
  check_apart(check, "a", a, out);
  multiply(a, product, transpose_a);
}

void linear(const TensorView& x, const GroupQuant& w, const TensorView& out,
            const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Checker check("linear");
  const Product product = check_linear(check, x, describe(w), out, epilogue);
  check_apart(check, "w", w, out);
  for_parts(product, [&](const Product& part) { multiply(w, part, false); });
}

}  // namespace gossamer
