#include "jax/handlers.h"

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/cuda.h"
#include "gossamer/nm.h"
#include "gossamer/products.h"
#include "jax/frame.h"
#include "jax/shapes.h"

namespace gossamer::python::ffi {
namespace {

// The operations of CPUs have the same names and are found by the types of their arguments: those
// of GPUs take a workspace and a stream more.
using cuda::linear, cuda::linear_backward, cuda::sddmm, cuda::spmm;

/// The arrays of a sparse matrix, which is a BSR where an entry of `values` has sides.
template <class Backend>
struct Matrix {
  Matrix(const ForeignCall<Backend>& frame, int first, int batch_axes)
      : call(frame),
        indptr(frame.argument(first), batch_axes, frame),
        indices(frame.argument(first + 1), batch_axes, frame),
        values(frame.argument(first + 2), batch_axes, frame),
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
      body(call.template checked<Bsr>(p, i, v, rows, cols));
    } else {
      body(call.template checked<Csr>(p, i, v, rows, cols));
    }
  }

  const ForeignCall<Backend>& call;
  Operand indptr, indices, values;
  std::int64_t rows, cols;
};

template <class Backend, class Sparse>
void run_linear(const ForeignCall<Backend>& call, const TensorView& x, const Sparse& w,
                const TensorView& out) {
  const std::int64_t workspace = call.workspace(
      [](const auto&... operands) { return cuda::linear_workspace(operands...); }, x, w);
  call.run(workspace, [&](const auto&... queue) { linear(x, w, out, Epilogue{}, queue...); });
}

template <class Backend, class Sparse>
void run_spmm(const ForeignCall<Backend>& call, const Sparse& a, const TensorView& b,
              const TensorView& out, bool transposed) {
  const std::int64_t workspace = call.workspace(
      [](const auto&... operands) { return cuda::spmm_workspace(operands...); }, a, b, transposed);
  call.run(workspace,
           [&](const auto&... queue) { spmm(a, b, out, transposed, Epilogue{}, queue...); });
}

template <class Backend>
struct Linear {
  static constexpr const char* kName = "linear";
  /// out = x·Wᵀ of (x, W).
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.argument(1));
    const Operand x(frame.argument(0), axes, frame), out(frame.result(), axes, frame);
    const Matrix<Backend> w(frame, 1, axes);
    const auto extents = extents_of({&x, &w.indptr, &w.indices, &w.values});
    if (!w.is_batched()) {  // one more axis of rows
      w.with(0, extents,
             [&](const auto& matrix) { run_linear(frame, x.rows(), matrix, out.rows()); });
      return;
    }
    for_each(extents, [&](std::int64_t place) {
      w.with(place, extents, [&](const auto& matrix) {
        run_linear(frame, x.at(place, extents), matrix, out.at(place, extents));
      });
    });
  }
};

template <class Backend>
struct Spmm {
  static constexpr const char* kName = "spmm";
  /// out = A·b, or Aᵀ·b, of (A, b).
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.argument(0));
    const bool transposed = frame.flag("transpose_a");
    const Matrix<Backend> a(frame, 0, axes);
    const Operand b(frame.argument(3), axes, frame), out(frame.result(), axes, frame);
    const auto extents = extents_of({&a.indptr, &a.indices, &a.values, &b});
    for_each(extents, [&](std::int64_t place) {
      a.with(place, extents, [&](const auto& matrix) {
        run_spmm(frame, matrix, b.at(place, extents), out.at(place, extents), transposed);
      });
    });
  }
};

template <class Backend>
struct Sddmm {
  static constexpr const char* kName = "sddmm";
  static constexpr bool kReplays = true;
  /// out = (a·bᵀ) at the entries of P, of (a, b, P).
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.argument(2));
    const Operand a(frame.argument(0), axes, frame), b(frame.argument(1), axes, frame),
        out(frame.result(), axes, frame);
    const Matrix<Backend> pattern(frame, 2, axes);
    const auto extents = extents_of({&a, &b, &pattern.indptr, &pattern.indices, &pattern.values});
    for_each(extents, [&](std::int64_t place) {
      pattern.with(place, extents, [&](const auto& matrix) {
        frame.run(0, [&](const auto&... queue) {
          sddmm(a.at(place, extents), b.at(place, extents), matrix, out.at(place, extents), false,
                queue...);
        });
      });
    });
  }
};

/// The arrays of an N:M matrix.
template <class Backend>
struct NmMatrix {
  NmMatrix(const ForeignCall<Backend>& frame, int first, int batch_axes)
      : call(frame),
        indices(frame.argument(first), batch_axes, frame),
        values(frame.argument(first + 1), batch_axes, frame),
        rows(frame.integer("rows")),
        cols(frame.integer("cols")),
        n(frame.integer("n")),
        m(frame.integer("m")),
        axis(static_cast<int>(frame.integer("axis"))) {}

  [[nodiscard]] Nm at(std::int64_t place, const std::vector<std::int64_t>& extents) const {
    return call.template checked<Nm>(values.at(place, extents), indices.at(place, extents), rows,
                                     cols, n, m, axis);
  }

  const ForeignCall<Backend>& call;
  Operand indices, values;
  std::int64_t rows, cols, n, m;
  int axis;
};

template <class Backend>
struct NmLinear {
  static constexpr const char* kName = "nm_linear";
  /// out = x·Wᵀ of (x, W), W an N:M matrix.
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.argument(2), 2);
    const Operand x(frame.argument(0), axes, frame), out(frame.result(), axes, frame);
    const NmMatrix<Backend> w(frame, 1, axes);
    const auto extents = extents_of({&x, &w.indices, &w.values});
    if (!w.indices.is_batched() && !w.values.is_batched()) {  // one more axis of rows
      run_linear(frame, x.rows(), w.at(0, extents), out.rows());
      return;
    }
    for_each(extents, [&](std::int64_t place) {
      run_linear(frame, x.at(place, extents), w.at(place, extents), out.at(place, extents));
    });
  }
};

template <class Backend>
struct NmSpmm {
  static constexpr const char* kName = "nm_spmm";
  /// out = A·b, or Aᵀ·b, of (A, b), A an N:M matrix.
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.argument(1), 2);
    const bool transposed = frame.flag("transpose_a");
    const NmMatrix<Backend> a(frame, 0, axes);
    const Operand b(frame.argument(2), axes, frame), out(frame.result(), axes, frame);
    const auto extents = extents_of({&a.indices, &a.values, &b});
    for_each(extents, [&](std::int64_t place) {
      run_spmm(frame, a.at(place, extents), b.at(place, extents), out.at(place, extents),
               transposed);
    });
  }
};

template <class Backend>
struct NmSampled {
  static constexpr const char* kName = "nm_sampled";
  /// out = (gᵀ·x) at the entries of P, of (g, x, P), P an N:M matrix.
  static void run(const ForeignCall<Backend>& frame) {
    const int axes = frame.batch_axes(frame.argument(3), 2);
    const Operand g(frame.argument(0), axes, frame), x(frame.argument(1), axes, frame),
        out(frame.result(), axes, frame);
    const NmMatrix<Backend> pattern(frame, 2, axes);
    const auto extents = extents_of({&g, &x, &pattern.indices, &pattern.values});
    for_each(extents, [&](std::int64_t place) {
      const TensorView slope = g.at(place, extents);
      const Nm matrix = pattern.at(place, extents);
      const Gradients gradients{.dense = {}, .values = out.at(place, extents), .bias = {}};
      const std::int64_t workspace = frame.workspace(
          [](const auto&... operands) { return cuda::linear_backward_workspace(operands...); },
          slope, matrix, gradients);
      frame.run(workspace, [&](const auto&... queue) {
        linear_backward(slope, x.at(place, extents), matrix, gradients, queue...);
      });
    });
  }
};

}  // namespace
}  // namespace gossamer::python::ffi

namespace gossamer::python {

template <class Backend>
void bind_jax(pybind11::module_& module) {
  ffi::Handlers handlers;
  ffi::add<Backend, ffi::Linear>(handlers);
  ffi::add<Backend, ffi::Spmm>(handlers);
  ffi::add<Backend, ffi::Sddmm>(handlers);
  ffi::add<Backend, ffi::NmLinear>(handlers);
  ffi::add<Backend, ffi::NmSpmm>(handlers);
  ffi::add<Backend, ffi::NmSampled>(handlers);
  ffi::add_activation<Backend>(handlers);
  ffi::add_attention<Backend>(handlers);
  module.def("jax_handlers", [all = handlers.calls] { return all; });
  if (Backend::kDevice == DeviceType::cpu) {
    module.def("jax_checks", [all = handlers.checks] { return all; });
  }
}

template void bind_jax<GOSSAMER_BACKEND>(pybind11::module_& module);

}  // namespace gossamer::python
