#include "jax/handlers.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/error.h"
#include "gossamer/products.h"
#include "jax/xla_ffi.h"

namespace gossamer::python {
namespace {

DType dtype_of(xla::DataType dtype, const char* op) {
  switch (dtype) {
    case xla::DataType::s32:
      return DType::i32;
    case xla::DataType::s64:
      return DType::i64;
    case xla::DataType::f16:
      return DType::f16;
    case xla::DataType::bf16:
      return DType::bf16;
    case xla::DataType::f32:
      return DType::f32;
    case xla::DataType::f64:
      return DType::f64;
    default:
      throw TypeError(std::string(op) + ": an operand has XLA's element type " +
                      std::to_string(static_cast<int>(dtype)) +
                      ", expected float32, float64, float16 or bfloat16, or int32, int64 for "
                      "indices");
  }
}

/// One operand of a call that may stand for a batch: its leading axes are those that jax.vmap adds,
/// of extent 1 where the operand is the same for the whole batch. Without those axes, it is a
/// contiguous array.
class Operand {
 public:
  Operand(const xla::Buffer& buffer, int batch_axes, const char* op) {
    view_.data = buffer.data;
    view_.dtype = dtype_of(buffer.dtype, op);
    if (buffer.rank > kMaxRank || buffer.rank < batch_axes) {
      throw ValueError(std::string(op) + ": an operand has " + std::to_string(buffer.rank) +
                       " axes, expected " + std::to_string(batch_axes) + " to " +
                       std::to_string(kMaxRank));
    }
    batch_.assign(buffer.dims, buffer.dims + batch_axes);
    view_.rank = static_cast<int>(buffer.rank) - batch_axes;
    std::copy(buffer.dims + batch_axes, buffer.dims + buffer.rank, view_.shape.begin());
    set_strides();
  }

  [[nodiscard]] const std::vector<std::int64_t>& batch() const noexcept { return batch_; }
  [[nodiscard]] bool is_batched() const noexcept {
    return std::any_of(batch_.begin(), batch_.end(), [](std::int64_t n) { return n != 1; });
  }

  /// The array of one element of the batch; `place` counts through all of them, the last axis
  /// fastest.
  [[nodiscard]] TensorView at(std::int64_t place, const std::vector<std::int64_t>& extents) const {
    std::int64_t index = 0, stride = 1;
    for (std::size_t axis = batch_.size(); axis-- > 0;) {
      if (batch_[axis] != 1) index += place % extents[axis] * stride;
      stride *= batch_[axis];
      place /= extents[axis];
    }
    TensorView view = view_;
    view.data = static_cast<char*>(view.data) + index * view.numel() * size_of(view.dtype);
    return view;
  }

  /// All of the batch as one array whose first axis is all axes but the last.
  [[nodiscard]] TensorView rows() const {
    TensorView view = view_;
    if (view.rank == 0) return view;
    const std::int64_t last = view.shape[static_cast<std::size_t>(view.rank - 1)];
    std::int64_t count = 1;
    for (const std::int64_t n : batch_) count *= n;
    for (int axis = 0; axis + 1 < view.rank; ++axis) {
      count *= view.shape[static_cast<std::size_t>(axis)];
    }
    view.rank = 2;
    view.shape = {count, last};
    view.strides = {last, 1};
    return view;
  }

 private:
  void set_strides() {
    std::int64_t stride = 1;
    for (int axis = view_.rank; axis-- > 0;) {
      view_.strides[static_cast<std::size_t>(axis)] = stride;
      stride *= view_.shape[static_cast<std::size_t>(axis)];
    }
  }

  TensorView view_;
  std::vector<std::int64_t> batch_;
};

/// A call of a handler.
class Frame {
 public:
  Frame(const xla::CallFrame& frame, const char* op) : frame_(frame), op_(op) {}

  [[nodiscard]] const xla::Buffer& argument(int index) const {
    require(index < frame_.args.size, "fewer operands than it has");
    return *static_cast<const xla::Buffer*>(frame_.args.args[index]);
  }
  [[nodiscard]] const xla::Buffer& result() const {
    require(frame_.rets.size == 1, "another number of results than one");
    return *static_cast<const xla::Buffer*>(frame_.rets.rets[0]);
  }
  [[nodiscard]] std::int64_t integer(std::string_view name) const {
    const xla::Scalar& scalar = attribute(name);
    require(scalar.dtype == xla::DataType::s64, "an attribute of another type");
    return *static_cast<const std::int64_t*>(scalar.value);
  }
  [[nodiscard]] bool flag(std::string_view name) const {
    const xla::Scalar& scalar = attribute(name);
    require(scalar.dtype == xla::DataType::pred, "an attribute of another type");
    return *static_cast<const bool*>(scalar.value);
  }

  [[nodiscard]] const char* op() const noexcept { return op_; }

 private:
  [[nodiscard]] const xla::Scalar& attribute(std::string_view name) const {
    for (std::int64_t i = 0; i < frame_.attrs.size; ++i) {
      const xla::ByteSpan& span = *frame_.attrs.names[i];
      if (std::string_view(span.ptr, span.len) == name &&
          frame_.attrs.types[i] == xla::AttrType::scalar) {
        return *static_cast<const xla::Scalar*>(frame_.attrs.attrs[i]);
      }
    }
    throw ValueError(std::string(op_) + ": called without the attribute " + std::string(name));
  }
  void require(bool holds, const char* what) const {
    if (!holds) throw ValueError(std::string(op_) + ": called with " + what);
  }

  const xla::CallFrame& frame_;
  const char* op_;
};

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

/// How many axes jax.vmap added: an operand that has one axis of its own says so.
int batch_axes_of(const xla::Buffer& indptr) {
  return static_cast<int>(std::max<std::int64_t>(indptr.rank, 1)) - 1;
}

/// The extents of a batch, from all operands.
std::vector<std::int64_t> extents_of(std::initializer_list<const Operand*> operands) {
  std::vector<std::int64_t> extents((*operands.begin())->batch().size(), 1);
  for (const Operand* operand : operands) {
    for (std::size_t axis = 0; axis < extents.size(); ++axis) {
      if (operand->batch()[axis] != 1) extents[axis] = operand->batch()[axis];
    }
  }
  return extents;
}

template <class F>
void for_each(const std::vector<std::int64_t>& extents, F&& body) {
  std::int64_t count = 1;
  for (const std::int64_t n : extents) count *= n;
  for (std::int64_t place = 0; place < count; ++place) body(place);
}

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

xla::Error* make_error(const xla::CallFrame& frame, const char* message) {
  xla::ErrorCreateArgs args{.struct_size = sizeof(xla::ErrorCreateArgs),
                            .extension_start = nullptr,
                            .message = message,
                            .code = xla::ErrorCode::invalid_argument};
  return frame.api->error_create(&args);
}

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

/// What XLA calls, on threads of its own, without the interpreter's lock.
template <class Operation>
xla::Error* handle(xla::CallFrame* frame) noexcept {
  for (xla::Extension* next = frame->extension_start; next != nullptr; next = next->next) {
    if (next->type == xla::ExtensionType::metadata) {
      xla::Metadata& metadata = *reinterpret_cast<xla::MetadataExtension*>(next)->metadata;
      metadata.api_version = {.struct_size = sizeof(xla::ApiVersion),
                              .extension_start = nullptr,
                              .major_version = xla::kMajorVersion,
                              .minor_version = xla::kMinorVersion};
      metadata.traits = 0;
      return nullptr;
    }
  }
  if (frame->stage != xla::Stage::execute) return nullptr;
  try {
    Operation::run(Frame(*frame, Operation::kName));
    return nullptr;
  } catch (const std::exception& error) {
    return make_error(*frame, error.what());
  } catch (...) {
    return make_error(*frame, "an unknown error");
  }
}

template <class Operation>
void add(pybind11::dict& handlers) {
  handlers[Operation::kName] = pybind11::capsule(reinterpret_cast<void*>(&handle<Operation>));
}

}  // namespace

void bind_jax(pybind11::module_& module) {
  module.def("jax_handlers", [] {
    pybind11::dict handlers;
    add<Linear>(handlers);
    add<Spmm>(handlers);
    add<Sddmm>(handlers);
    return handlers;
  });
}

}  // namespace gossamer::python
