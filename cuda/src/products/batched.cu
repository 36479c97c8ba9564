// sddmm and spmm for several sets of operands on one CSR pattern, or on patterns that lie one below
// the other: the kernels of one set, with the sets in their grid.

#include <algorithm>
#include <array>
#include <limits>
#include <string>

#include "base/launch.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/csr_product.h"
#include "products/kernels/csr_sets.cuh"
#include "products/sddmm.h"

namespace gossamer::cuda {
namespace {

using detail::Checker;
using detail::MatrixSets;

constexpr std::int64_t kMaxInt = std::numeric_limits<int>::max();

/// The leading axes of two operands as at most two axes. `b` may be null, or a matrix that all sets
/// have.
class LeadingAxes {
 public:
  LeadingAxes(const Checker& check, int leading, const detail::Argument& a, const TensorView* b) {
    const bool both = b != nullptr && b->rank == a.view.rank;
    for (auto d = static_cast<std::size_t>(leading); d-- > 0;) {
      const std::int64_t extent = a.view.shape[d];
      if (extent == 1) continue;
      const std::int64_t step_a = a.view.strides[d], step_b = both ? b->strides[d] : 0;
      if (count_ > 0) {
        Axis& inner = axes_[count_ - 1];
        if (step_a == inner.a * inner.extent && step_b == inner.b * inner.extent) {
          inner.extent *= extent;
          continue;
        }
      }
      if (count_ == axes_.size()) {
        check.value_error(std::string(a.name) +
                          ".strides has more than two axes of matrices, "
                          "expected leading axes that form at most two (make it contiguous)");
      }
      axes_[count_++] = {extent, step_a, step_b};
    }
  }

  [[nodiscard]] unsigned inner() const { return static_cast<unsigned>(axes_[0].extent); }
  [[nodiscard]] SetSteps a() const { return {axes_[1].a, axes_[0].a}; }
  [[nodiscard]] SetSteps b() const { return {axes_[1].b, axes_[0].b}; }

 private:
  struct Axis {
    std::int64_t extent = 1, a = 0, b = 0;
  };
  std::array<Axis, 2> axes_ = {};  // the inner one first
  std::size_t count_ = 0;
};

void require_sets(const Checker& check, const MatrixSets& all) {
  if (all.sets > kMaxInt) {
    check.not_implemented("the leading axes have " + std::to_string(all.sets) +
                          " matrices, expected less than 2**31 on a GPU");
  }
}

Sets sets_of(const MatrixSets& all, unsigned inner, std::int64_t values) {
  return {.several = true,
          .first = 0,
          .inner = inner,
          .stacks = static_cast<unsigned>(all.stacks),
          .rows = static_cast<int>(all.rows),
          .values = values};
}

/// The structure and the values of what multiplies the sets: A's, or their transposes'.
struct Plan {
  int* spread = nullptr;  // columns of A's that lie one below the other
  CsrTransposed transposed{};
  void *scratch = nullptr, *values = nullptr, *partial = nullptr;
};

/// A's pattern, its columns apart where matrices lie one below the other.
CsrView spread_of(const CsrView& a, const Plan& plan, std::int64_t stacks) {
  CsrView spread = a;
  if (stacks > 1) spread.indices = plan.spread;
  spread.cols = a.cols * stacks;
  return spread;
}

/// The matrix of a set: its rows, and the entries of all.
CsrView operand_of(const CsrView& a, const Plan& plan, const MatrixSets& all, bool transpose_a) {
  CsrView operand = a;
  operand.rows = all.rows;
  if (!transpose_a) return operand;
  operand.indptr = plan.transposed.indptr;
  operand.indices = plan.transposed.indices;
  operand.values = plan.values;
  operand.rows = a.cols;
  operand.cols = all.rows;
  return operand;
}

Plan carve(Carver& carver, const CsrView& a, const MatrixSets& all, std::int64_t value_sets,
           std::int64_t n, bool transpose_a) {
  Plan plan;
  if (transpose_a) {
    if (all.stacks > 1) plan.spread = carver.take<int>(a.nnz);
    plan.transposed = {.indptr = carver.take<int>(a.cols * all.stacks + 1),
                       .indices = carver.take<int>(a.nnz),
                       .values = nullptr,
                       .permutation = carver.take<int>(a.nnz)};
    plan.values = carver.take_bytes(value_sets * a.nnz * size_of(a.dtype));
    plan.scratch = carver.take_bytes(transpose_workspace(spread_of(a, plan, all.stacks)));
  }
  const std::int64_t sums = partial_sums(operand_of(a, plan, all, transpose_a), all.stacks);
  plan.partial =
      carver.take_bytes(std::min<std::int64_t>(all.sets, 65535) * sums * n * sum_size(a.dtype));
  return plan;
}

/// What spmm means once its arguments have been checked.
struct Spmm {
  Checker check{"spmm", DeviceType::cuda};
  CsrView a;
  MatrixSets all;
  std::int64_t value_sets = 1, n = 0;

  Spmm(const CsrPattern& pattern, const TensorView& values, const MatrixSets& sets,
       const TensorView& b, bool transpose_a)
      : a(pattern_of(check, "a", pattern)), all(sets) {
    a.values = values.data;
    a.dtype = values.dtype;
    for (int d = 0; d + 1 < values.rank; ++d) {
      value_sets *= values.shape[static_cast<std::size_t>(d)];
    }
    n = b.shape[static_cast<std::size_t>(b.rank - 1)];
    require_sets(check, all);
    if (transpose_a && a.cols * all.stacks >= kMaxInt) {
      check.not_implemented("a has " + std::to_string(all.stacks) + " matrices of " +
                            std::to_string(a.cols) +
                            " columns, expected less than 2**31 - 1 together on a GPU");
    }
  }
};

/// Puts the transposes of A's matrices, and their values, where the plan has room for them.
void turn(const Spmm& spmm, const Plan& plan, const TensorView& values, Stream stream) {
  const std::int64_t nnz = spmm.a.nnz;
  const bool several = spmm.all.stacks > 1 && nnz > 0;
  const auto blocks = [](std::int64_t threads) { return grid_x(ceil_div(threads, kSetsThreads)); };
  if (several) {
    launch(csr_spread_columns, dim3(blocks(spmm.a.rows * 32)), dim3(kSetsThreads), 0, stream,
           spmm.a.indptr, spmm.a.indices, plan.spread, spmm.a.rows, static_cast<int>(spmm.all.rows),
           static_cast<int>(spmm.a.cols));
  }
  transpose(spread_of(spmm.a, plan, spmm.all.stacks), plan.transposed, plan.scratch, stream);
  if (several) {
    launch(csr_fold_columns, dim3(blocks(nnz)), dim3(kSetsThreads), 0, stream,
           plan.transposed.indices, nnz, static_cast<int>(spmm.all.rows));
  }
  if (nnz == 0) return;
  with_bits_of(values.dtype, [&]<class U>(U) {
    launch(csr_gather_values<U>, dim3(blocks(nnz), grid_y(spmm.value_sets)), dim3(kSetsThreads), 0,
           stream, static_cast<const U*>(values.data), plan.transposed.permutation,
           static_cast<U*>(plan.values), nnz, spmm.value_sets);
  });
}

/// The sets that arguments would have which pass the checks.
MatrixSets sets_for(const CsrPattern& a, const TensorView& values, const TensorView& b,
                    bool stacked) {
  const bool same_b = b.rank == 2 && values.rank > 1 && !stacked;
  const TensorView& axes = same_b ? values : b;
  const int leading = same_b ? values.rank - 1 : b.rank - 2;
  MatrixSets all{.leading = leading, .same_b = same_b};
  for (int d = 0; d < leading; ++d) all.sets *= axes.shape[static_cast<std::size_t>(d)];
  if (stacked && leading > 0) {
    all.stacks = values.rank == 1 || leading == 1
                     ? all.sets
                     : axes.shape[static_cast<std::size_t>(leading - 1)];
  }
  all.rows = a.rows() / std::max<std::int64_t>(all.stacks, 1);
  return all;
}

}  // namespace

void sddmm(const TensorView& a, const TensorView& b, const CsrPattern& pattern,
           const TensorView& out, const SddmmOptions& options, Stream stream) {
  const Checker check("sddmm", DeviceType::cuda);
  const MatrixSets all = detail::check_sddmm(check, a, b, pattern, out);
  const CsrView view = pattern_of(check, "pattern", pattern);
  require_sets(check, all);
  const LeadingAxes axes(check, all.leading, {"a", a}, &b);
  if (out.numel() == 0) return;
  const DeviceGuard guard(pattern.device());
  const SddmmSets sets{.count = all.sets / all.stacks,
                       .sets = sets_of(all, axes.inner(), 0),
                       .a = axes.a(),
                       .b = axes.b()};
  const TensorView first_a = detail::matrix_of(a, 0), first_b = detail::matrix_of(b, 0);
  sample(view,
         {.a = first_a,
          .b = first_b,
          .out = out,
          .accumulate = options.accumulate,
          .scale = options.scale,
          .sets = &sets},
         stream);
}

std::int64_t spmm_workspace(const CsrPattern& a, const TensorView& values, const TensorView& b,
                            bool transpose_a, bool stacked) {
  if (b.rank < 2) return 0;
  const MatrixSets all = sets_for(a, values, b, stacked);
  if (all.sets == 0 || all.stacks == 0) return 0;
  const Spmm spmm(a, values, all, b, transpose_a);
  Carver carver(nullptr);
  static_cast<void>(carve(carver, spmm.a, all, spmm.value_sets, spmm.n, transpose_a));
  return carver.used();
}

void spmm(const CsrPattern& a, const TensorView& values, const TensorView& b, const TensorView& out,
          bool transpose_a, bool stacked, const Epilogue& epilogue, const TensorView& workspace,
          Stream stream) {
  const Checker check("spmm", DeviceType::cuda);
  const MatrixSets all =
      detail::check_spmm(check, a, values, b, out, transpose_a, stacked, epilogue);
  const Spmm spmm(a, values, all, b, transpose_a);
  const LeadingAxes axes(check, all.leading, {"out", out}, all.same_b ? nullptr : &b);
  check.workspace(workspace, a.device(), spmm_workspace(a, values, b, transpose_a, stacked));
  if (out.numel() == 0) return;
  const DeviceGuard guard(a.device());
  const detail::SparseInfo info{
      .rows = all.rows, .cols = a.cols(), .dtype = values.dtype, .device = a.device()};
  const detail::Product product =
      detail::check_spmm(check, info, all.same_b ? b : detail::matrix_of(b, 0),
                         detail::matrix_of(out, 0), transpose_a, epilogue);
  Carver carver(workspace.data);
  const Plan plan = carve(carver, spmm.a, all, spmm.value_sets, spmm.n, transpose_a);
  if (transpose_a) turn(spmm, plan, values, stream);
  MatrixSets places = all;
  if (transpose_a) places.rows = a.cols();
  const RowSets sets{.count = all.sets,
                     .sets = sets_of(places, axes.inner(), values.rank == 1 ? 0 : spmm.a.nnz),
                     .b = axes.b(),
                     .out = axes.a()};
  multiply_rows(operand_of(spmm.a, plan, all, transpose_a), product, nullptr, 0, plan.partial,
                stream, &sets);
}

}  // namespace gossamer::cuda
