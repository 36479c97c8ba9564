#include <algorithm>
#include <string>

#include "gossamer/detail/diagnostics_checks.h"
#include "prune/rows.h"

namespace gossamer::detail {
namespace {

Grid make_grid(const Checker& check, std::int64_t height, std::int64_t width,
               const prune::CountBlock& block) {
  if (block.rows.value_or(1) < 1 || block.cols.value_or(1) < 1) {
    check.value_error("per is (" + std::to_string(block.rows.value_or(1)) + ", " +
                      std::to_string(block.cols.value_or(1)) + "), expected at least 1 each");
  }
  const std::int64_t tall = std::max<std::int64_t>(height, 1);
  const std::int64_t wide = std::max<std::int64_t>(width, 1);
  Grid grid{.rows = std::min(block.rows.value_or(tall), tall),
            .cols = std::min(block.cols.value_or(wide), wide),
            .down = 1,
            .across = 1};
  if (block.rows) grid.down = (height + grid.rows - 1) / grid.rows;
  if (block.cols) grid.across = (width + grid.cols - 1) / grid.cols;
  return grid;
}

/// `counts` is int64, contiguous, beside x and with an element for each block.
void check_counts(const Checker& check, const TensorView& counts, const Grid& grid,
                  const prune::CountBlock& block, Device device) {
  const Argument result{"out", counts};
  check.dtype(result, DType::i64, "a count");
  if (block.rows && block.cols) {
    check.shape(result, {grid.down, grid.across});
  } else if (block.rows) {
    check.shape(result, {grid.down});
  } else if (block.cols) {
    check.shape(result, {grid.across});
  } else {
    check.shape(result, {});
  }
  check.device(result, device, "x");
  check.contiguous(result);
}

Grid check_sparse(const Checker& check, const TensorView& indptr, const TensorView& indices,
                  const TensorView& values, std::int64_t rows, std::int64_t cols,
                  const prune::CountBlock& block, const TensorView& counts) {
  check.device({"x", values}, values.device, "x");
  const Grid grid = make_grid(check, rows, cols, block);
  check_counts(check, counts, grid, block, values.device);
  check.writable({"out", counts}, {{"x", values}, {"x", indices}, {"x", indptr}});
  return grid;
}

std::string named(std::size_t matrix) { return "matrices[" + std::to_string(matrix) + "]"; }

}  // namespace

Grid check_nnz_stats(const Checker& check, const TensorView& x, const prune::CountBlock& block,
                     const TensorView& counts) {
  check.rank({"x", x}, {2});
  if (!is_floating(x.dtype) && x.dtype != DType::boolean && x.dtype != DType::u8) {
    check.type_error(std::string("x.dtype is ") + name_of(x.dtype) +
                     ", expected a floating type, bool or uint8");
  }
  check.device({"x", x}, x.device, "x");
  check.layout({"x", x});
  const Grid grid = make_grid(check, x.shape[0], x.shape[1], block);
  check_counts(check, counts, grid, block, x.device);
  check.writable({"out", counts}, {{"x", x}});
  return grid;
}

Grid check_nnz_stats(const Checker& check, const Csr& a, const prune::CountBlock& block,
                     const TensorView& counts) {
  return check_sparse(check, a.indptr(), a.indices(), a.values(), a.rows(), a.cols(), block,
                      counts);
}

Grid check_nnz_stats(const Checker& check, const Bsr& a, const prune::CountBlock& block,
                     const TensorView& counts) {
  return check_sparse(check, a.indptr(), a.indices(), a.blocks(), a.rows(), a.cols(), block,
                      counts);
}

void check_coverage(const Checker& check, const TensorView& fired, const TensorView& mask) {
  check_mask(check, {"fired", fired}, {"fired", fired});
  check_mask(check, {"mask", mask}, {"fired", fired});
  check.contiguous({"fired", fired});
  check.contiguous({"mask", mask});
  check.writable({"fired", fired}, {{"mask", mask}});
}

void check_pattern(const Checker& check, std::size_t matrix, bool equal) {
  if (equal) return;
  check.value_error(named(matrix) + " has a pattern of its own, expected that of matrices[0]");
}

void check_mean(const Checker& check, std::span<const Csr> matrices, const TensorView& values) {
  if (matrices.empty()) check.value_error("matrices is empty, expected at least one");
  const Csr& first = matrices.front();
  check.device({"matrices[0]", first.values()}, first.device(), "matrices[0]");
  for (std::size_t k = 0; k < matrices.size(); ++k) {
    const Csr& a = matrices[k];
    if (a.dtype() != first.dtype()) {
      check.type_error(named(k) + ".dtype is " + name_of(a.dtype()) +
                       ", expected matrices[0].dtype = " + name_of(first.dtype()));
    }
    check.device({named(k).c_str(), a.values()}, first.device(), "matrices[0]");
    check_pattern(check, k,
                  a.rows() == first.rows() && a.cols() == first.cols() && a.nnz() == first.nnz() &&
                      a.index_dtype() == first.index_dtype());
  }
  check.dtype({"values", values}, first.dtype(), "matrices[0]");
  check.shape({"values", values}, {first.nnz()});
  check.device({"values", values}, first.device(), "matrices[0]");
  check.layout({"values", values});
  for (const Csr& a : matrices) {
    check.writable({"values", values}, {{"a matrix", a.values()}, {"a matrix", a.indices()}});
  }
}

}  // namespace gossamer::detail
