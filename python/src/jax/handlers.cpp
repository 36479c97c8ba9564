#include "jax/handlers.h"

#include <array>
#include <cstdint>
#include <vector>

#include "gossamer/activation.h"
#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/nm.h"
#include "gossamer/products.h"
#include "jax/frame.h"

namespace gossamer::python::ffi {
namespace {

/// The arrays of a sparse matrix, which is a BSR where an entry of `values` has sides. What a
/// traced function passes may be anything, so structure is checked at each call.
struct Matrix {
  Matrix(const Frame& frame, int first, int batch_axes)
      : indptr(frame.argument(first), batch_axes, frame.op()),
        indices(frame.argument(first + 1), batch_axes, frame.op()),
        values(frame.argument(first + 2), batch_axes, frame.op()),
        rows(frame.integer("rows")),
        cols(frame.integer("cols")) {}

  [[nodiscard]] bool is_batched() const noexcept {
    return indptr.is_batched() || indices.is_batched() || values.is_batched();
  }

  /// body(matrix) for one element of the batch.
  template <class F>
  void with(std::int64_t place, const std::vector<std::int64_t>& extents, F&& body) const {
    const TensorView p = indptr.at(place, extents), i = indices.at(place, extents),
                     v = values.at(place, extents);
    if (v.rank == 3) {
      body(Bsr(p, i, v, rows, cols));
    } else {
      body(Csr(p, i, v, rows, cols));
    }
  }

  Operand indptr, indices, values;
  std::int64_t rows, cols;
};

/// out = x·Wᵀ of (x, W).
void run_linear(const Frame& frame) {
  const int axes = batch_axes_of(frame.argument(1));
  const Operand x(frame.argument(0), axes, frame.op()), out(frame.result(), axes, frame.op());
  const Matrix w(frame, 1, axes);
  const auto extents = extents_of({&x, &w.indptr, &w.indices, &w.values});
  if (!w.is_batched()) {  // one more axis of rows
    w.with(0, extents, [&](const auto& matrix) { linear(x.rows(), matrix, out.rows()); });
    return;
  }
  for_each(extents, [&](std::int64_t place) {
    w.with(place, extents, [&](const auto& matrix) {
      linear(x.at(place, extents), matrix, out.at(place, extents));
    });
  });
}

/// out = A·b, or Aᵀ·b, of (A, b).
void run_spmm(const Frame& frame) {
  const int axes = batch_axes_of(frame.argument(0));
  const bool transposed = frame.flag("transpose_a");
  const Matrix a(frame, 0, axes);
  const Operand b(frame.argument(3), axes, frame.op()), out(frame.result(), axes, frame.op());
  const auto extents = extents_of({&a.indptr, &a.indices, &a.values, &b});
  for_each(extents, [&](std::int64_t place) {
    a.with(place, extents, [&](const auto& matrix) {
      spmm(matrix, b.at(place, extents), out.at(place, extents), transposed);
    });
  });
}

/// out = (a·bᵀ) at the entries of P, of (a, b, P).
void run_sddmm(const Frame& frame) {
  const int axes = batch_axes_of(frame.argument(2));
  const Operand a(frame.argument(0), axes, frame.op()), b(frame.argument(1), axes, frame.op()),
      out(frame.result(), axes, frame.op());
  const Matrix pattern(frame, 2, axes);
  const auto extents = extents_of({&a, &b, &pattern.indptr, &pattern.indices, &pattern.values});
  for_each(extents, [&](std::int64_t place) {
    pattern.with(place, extents, [&](const auto& matrix) {
      sddmm(a.at(place, extents), b.at(place, extents), matrix, out.at(place, extents));
    });
  });
}

/// The arrays of an N:M matrix.
struct NmMatrix {
  NmMatrix(const Frame& frame, int first, int batch_axes)
      : indices(frame.argument(first), batch_axes, frame.op()),
        values(frame.argument(first + 1), batch_axes, frame.op()),
        rows(frame.integer("rows")),
        cols(frame.integer("cols")),
        n(frame.integer("n")),
        m(frame.integer("m")),
        axis(static_cast<int>(frame.integer("axis"))) {}

  [[nodiscard]] Nm at(std::int64_t place, const std::vector<std::int64_t>& extents) const {
    return {values.at(place, extents), indices.at(place, extents), rows, cols, n, m, axis};
  }

  Operand indices, values;
  std::int64_t rows, cols, n, m;
  int axis;
};

/// out = x·Wᵀ of (x, W), W an N:M matrix.
void run_nm_linear(const Frame& frame) {
  const int axes = batch_axes_of(frame.argument(2), 2);
  const Operand x(frame.argument(0), axes, frame.op()), out(frame.result(), axes, frame.op());
  const NmMatrix w(frame, 1, axes);
  const auto extents = extents_of({&x, &w.indices, &w.values});
  if (!w.indices.is_batched() && !w.values.is_batched()) {  // one more axis of rows
    linear(x.rows(), w.at(0, extents), out.rows());
    return;
  }
  for_each(extents, [&](std::int64_t place) {
    linear(x.at(place, extents), w.at(place, extents), out.at(place, extents));
  });
}

/// out = A·b, or Aᵀ·b, of (A, b), A an N:M matrix.
void run_nm_spmm(const Frame& frame) {
  const int axes = batch_axes_of(frame.argument(1), 2);
  const bool transposed = frame.flag("transpose_a");
  const NmMatrix a(frame, 0, axes);
  const Operand b(frame.argument(2), axes, frame.op()), out(frame.result(), axes, frame.op());
  const auto extents = extents_of({&a.indices, &a.values, &b});
  for_each(extents, [&](std::int64_t place) {
    spmm(a.at(place, extents), b.at(place, extents), out.at(place, extents), transposed);
  });
}

/// out = (gᵀ·x) at the entries of P, of (g, x, P), P an N:M matrix.
void run_nm_sampled(const Frame& frame) {
  const int axes = batch_axes_of(frame.argument(3), 2);
  const Operand g(frame.argument(0), axes, frame.op()), x(frame.argument(1), axes, frame.op()),
      out(frame.result(), axes, frame.op());
  const NmMatrix pattern(frame, 2, axes);
  const auto extents = extents_of({&g, &x, &pattern.indices, &pattern.values});
  for_each(extents, [&](std::int64_t place) {
    linear_backward(g.at(place, extents), x.at(place, extents), pattern.at(place, extents),
                    {.dense = {}, .values = out.at(place, extents), .bias = {}});
  });
}

/// out = x·wt over the channels that pass, of (x, wt) and thresholds of the channels, if any.
void run_sparse_linear(const Frame& frame) {
  const int axes = batch_axes_of(frame.argument(1), 2);
  const Operand x(frame.argument(0), axes, frame.op()), wt(frame.argument(1), axes, frame.op()),
      out(frame.result(), axes, frame.op());
  std::vector<const Operand*> operands{&x, &wt};
  std::optional<Operand> each;
  if (!frame.has("threshold")) {
    each.emplace(frame.argument(2), axes, frame.op());
    operands.push_back(&*each);
  }
  const auto extents = extents_of(operands);
  for_each(extents, [&](std::int64_t place) {
    Threshold threshold;
    if (each.has_value()) {
      threshold.channels = each->at(place, extents);
    } else {
      threshold.value = frame.real("threshold");
    }
    sparse_linear(x.at(place, extents), wt.at(place, extents), threshold, out.at(place, extents));
  });
}

struct NmLinear {
  static constexpr const char* kName = "nm_linear";
  static void run(const Frame& frame) { run_nm_linear(frame); }
};
struct NmSpmm {
  static constexpr const char* kName = "nm_spmm";
  static void run(const Frame& frame) { run_nm_spmm(frame); }
};
struct NmSampled {
  static constexpr const char* kName = "nm_sampled";
  static void run(const Frame& frame) { run_nm_sampled(frame); }
};
struct SparseLinear {
  static constexpr const char* kName = "sparse_linear";
  static void run(const Frame& frame) { run_sparse_linear(frame); }
};
struct Linear {
  static constexpr const char* kName = "linear";
  static void run(const Frame& frame) { run_linear(frame); }
};
struct Spmm {
  static constexpr const char* kName = "spmm";
  static void run(const Frame& frame) { run_spmm(frame); }
};
struct Sddmm {
  static constexpr const char* kName = "sddmm";
  static void run(const Frame& frame) { run_sddmm(frame); }
};

}  // namespace
}  // namespace gossamer::python::ffi

namespace gossamer::python {

void bind_jax(pybind11::module_& module) {
  module.def("jax_handlers", [] {
    pybind11::dict handlers;
    ffi::add<ffi::Linear>(handlers);
    ffi::add<ffi::Spmm>(handlers);
    ffi::add<ffi::Sddmm>(handlers);
    ffi::add<ffi::NmLinear>(handlers);
    ffi::add<ffi::NmSpmm>(handlers);
    ffi::add<ffi::NmSampled>(handlers);
    ffi::add<ffi::SparseLinear>(handlers);
    ffi::add_attention(handlers);
    return handlers;
  });
}

}  // namespace gossamer::python
