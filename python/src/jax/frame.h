#pragma once

// What the handlers have in common: operands that stand for a batch, a call's operands and
// attributes, where it runs, errors. A handler is written once over the backend, as a binding is.

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/cuda.h"
#include "gossamer/error.h"
#include "gossamer/tensor.h"
#include "jax/described.h"
#include "jax/handlers.h"
#include "jax/xla_ffi.h"

namespace gossamer::python::ffi {

inline DType dtype_of(xla::DataType dtype, const char* op) {
  switch (dtype) {
    case xla::DataType::u8:
      return DType::u8;
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
                      ", expected float32, float64, float16 or bfloat16, or int32, int64, uint8 "
                      "for indices");
  }
}

/// A call of a handler.
class Frame {
 public:
  Frame(const xla::CallFrame& frame, const char* op, Device device)
      : frame_(frame), op_(op), device_(device) {}

  [[nodiscard]] const xla::Buffer& argument(int index) const {
    require(index < frame_.args.size, "fewer operands than it has");
    return *static_cast<const xla::Buffer*>(frame_.args.args[index]);
  }
  [[nodiscard]] const xla::Buffer& result(int index = 0) const {
    require(index < frame_.rets.size, "fewer results than it has");
    return *static_cast<const xla::Buffer*>(frame_.rets.rets[index]);
  }
  [[nodiscard]] bool has(std::string_view name) const noexcept { return find(name) != nullptr; }
  [[nodiscard]] std::int64_t integer(std::string_view name) const {
    return attribute<std::int64_t>(name, xla::DataType::s64);
  }
  [[nodiscard]] double real(std::string_view name) const {
    return attribute<double>(name, xla::DataType::f64);
  }
  [[nodiscard]] bool flag(std::string_view name) const {
    return attribute<bool>(name, xla::DataType::pred);
  }
  [[nodiscard]] std::optional<std::int64_t> optional_integer(std::string_view name) const {
    return has(name) ? std::optional(integer(name)) : std::nullopt;
  }
  [[nodiscard]] std::optional<double> optional_real(std::string_view name) const {
    return has(name) ? std::optional(real(name)) : std::nullopt;
  }

  [[nodiscard]] const char* op() const noexcept { return op_; }
  /// Where all operands and results are.
  [[nodiscard]] Device device() const noexcept { return device_; }

 private:
  [[nodiscard]] const xla::Scalar* find(std::string_view name) const noexcept {
    for (std::int64_t i = 0; i < frame_.attrs.size; ++i) {
      const xla::ByteSpan& span = *frame_.attrs.names[i];
      if (std::string_view(span.ptr, span.len) == name &&
          frame_.attrs.types[i] == xla::AttrType::scalar) {
        return static_cast<const xla::Scalar*>(frame_.attrs.attrs[i]);
      }
    }
    return nullptr;
  }
  template <class T>
  [[nodiscard]] T attribute(std::string_view name, xla::DataType dtype) const {
    const xla::Scalar* scalar = find(name);
    if (scalar == nullptr) {
      throw ValueError(std::string(op_) + ": called without the attribute " + std::string(name));
    }
    require(scalar->dtype == dtype, "an attribute of another type");
    return *static_cast<const T*>(scalar->value);
  }
  void require(bool holds, const char* what) const {
    if (!holds) throw ValueError(std::string(op_) + ": called with " + what);
  }

  const xla::CallFrame& frame_;
  const char* op_;
  Device device_;
};

/// An error that XLA's runtime returned to a handler, which returns it in turn.
struct Refusal {
  xla::Error* error;
};

inline void accept(xla::Error* error) {
  if (error != nullptr) throw Refusal{error};
}

/// What the operations of a backend run on, and take behind their operands: nothing on CPUs.
template <class Backend>
class Runtime {
 public:
  Runtime(const xla::CallFrame& /*frame*/, const char* /*op*/) noexcept {}
  [[nodiscard]] Device device() const noexcept { return {}; }
  template <class Format, class... Parts>
  [[nodiscard]] Format checked(const Parts&... parts) const {
    return Format(parts...);
  }
  template <class F>
  void run(std::int64_t /*workspace*/, F&& operation) const {
    operation();
  }
  template <class F>
  void run(F&& operation) const {
    operation();
  }
  template <class F, class... Operands>
  [[nodiscard]] std::int64_t workspace(F&& /*bytes*/, const Operands&... /*operands*/) const {
    return 0;
  }
};

/// On GPUs, XLA's device and stream, and workspaces of its memory.
template <>
class Runtime<Cuda> {
 public:
  Runtime(const xla::CallFrame& frame, const char* op) : frame_(&frame) {
    const xla::Api& api = *frame.api;
    if (api.struct_size < offsetof(xla::Api, device_get) + sizeof(api.device_get)) {
      throw NotImplementedError(std::string(op) +
                                ": this jaxlib does not tell on which GPU, expected a newer one");
    }
    xla::DeviceGetArgs device{.struct_size = sizeof(xla::DeviceGetArgs),
                              .extension_start = nullptr,
                              .context = frame.context,
                              .device = 0};
    accept(api.device_get(&device));
    device_ = {DeviceType::cuda, device.device};
    xla::StreamGetArgs stream{.struct_size = sizeof(xla::StreamGetArgs),
                              .extension_start = nullptr,
                              .context = frame.context,
                              .stream = nullptr};
    accept(api.stream_get(&stream));
    stream_ = static_cast<cuda::Stream>(stream.stream);
  }

  [[nodiscard]] Device device() const noexcept { return device_; }
  template <class Format, class... Parts>
  [[nodiscard]] Format checked(const Parts&... parts) const {
    return Format(Unread{}, parts...);
  }
  template <class F, class... Operands>
  [[nodiscard]] std::int64_t workspace(F&& bytes, const Operands&... operands) const {
    return bytes(operands...);
  }
  template <class F>
  void run(std::int64_t workspace, F&& operation) const {
    const Memory memory(*frame_, device_, workspace);
    operation(memory.view(), stream_);
  }
  /// Runs an operation that has no workspace.
  template <class F>
  void run(F&& operation) const {
    operation(stream_);
  }

 private:
  /// Freed when the operation is queued: XLA reuses memory in the order of the stream.
  class Memory {
   public:
    Memory(const xla::CallFrame& frame, Device device, std::int64_t bytes) : frame_(frame) {
      if (bytes == 0) return;
      xla::MemoryAllocateArgs args{.struct_size = sizeof(xla::MemoryAllocateArgs),
                                   .extension_start = nullptr,
                                   .context = frame.context,
                                   .size = static_cast<std::size_t>(bytes),
                                   .alignment = 16,
                                   .data = nullptr};
      accept(frame.api->memory_allocate(&args));
      view_.data = args.data;
      view_.dtype = DType::u8;
      view_.device = device;
      view_.rank = 1;
      view_.shape[0] = bytes;
      view_.strides[0] = 1;
    }
    ~Memory() {
      if (view_.data == nullptr) return;
      xla::MemoryFreeArgs args{.struct_size = sizeof(xla::MemoryFreeArgs),
                               .extension_start = nullptr,
                               .context = frame_.context,
                               .size = static_cast<std::size_t>(view_.shape[0]),
                               .data = view_.data};
      if (xla::Error* error = frame_.api->memory_free(&args)) {
        xla::ErrorDestroyArgs lost{.struct_size = sizeof(xla::ErrorDestroyArgs),
                                   .extension_start = nullptr,
                                   .error = error};
        frame_.api->error_destroy(&lost);
      }
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    [[nodiscard]] const TensorView& view() const noexcept { return view_; }

   private:
    const xla::CallFrame& frame_;
    TensorView view_;
  };

  const xla::CallFrame* frame_;
  Device device_;
  cuda::Stream stream_ = nullptr;
};

/// The third backend has the shapes and types of a call's arrays and no memory: Python has calls
/// checked when JAX traces them, since what XLA calls later can return no more than a message.
struct Shapes {};

template <>
class Runtime<Shapes> {
 public:
  Runtime(const xla::CallFrame& /*frame*/, const char* /*op*/) noexcept {}
  [[nodiscard]] Device device() const noexcept { return {}; }
  template <class Format, class... Parts>
  [[nodiscard]] Format checked(const Parts&... parts) const {
    return Format(Unread{}, parts...);
  }
  template <class F, class... Operands>
  [[nodiscard]] std::int64_t workspace(F&& /*bytes*/, const Operands&... /*operands*/) const {
    return 0;
  }
  template <class F>
  void run(std::int64_t /*workspace*/, F&& operation) const {
    operation(Shapes{});
  }
  template <class F>
  void run(F&& operation) const {
    operation(Shapes{});
  }
};

/// A call of a handler of a backend.
template <class Backend>
class ForeignCall : public Frame {
 public:
  ForeignCall(const xla::CallFrame& frame, const char* op)
      : ForeignCall(frame, op, Runtime<Backend>(frame, op)) {}

  /// A matrix or a layout of these arrays and extents. What a traced function passes may be
  /// anything, so its structure is checked at each call, but not on a GPU: as elsewhere, the host
  /// does not wait for arrays there.
  template <class Format, class... Parts>
  [[nodiscard]] Format checked(const Parts&... parts) const {
    return runtime_.template checked<Format>(parts...);
  }

  /// How many axes jax.vmap added to an operand or a result that has `own` axes of its own.
  [[nodiscard]] int batch_axes(const xla::Buffer& buffer, int own = 1) const noexcept {
    if (std::is_same_v<Backend, Shapes>) return 0;  // it is traced as one element of a batch
    return static_cast<int>(std::max<std::int64_t>(buffer.rank, own)) - own;
  }

  /// How many bytes of memory an operation needs beside its operands, by bytes(operands…).
  template <class F, class... Operands>
  [[nodiscard]] std::int64_t workspace(F&& bytes, const Operands&... operands) const {
    return runtime_.workspace(bytes, operands...);
  }
  /// Runs operation(queue…), `queue` being nothing on a CPU; on a GPU, the workspace where its size
  /// is given, and the stream.
  template <class F>
  void run(std::int64_t workspace, F&& operation) const {
    runtime_.run(workspace, operation);
  }
  template <class F>
  void run(F&& operation) const {
    runtime_.run(operation);
  }

 private:
  ForeignCall(const xla::CallFrame& frame, const char* op, Runtime<Backend> runtime)
      : Frame(frame, op, runtime.device()), runtime_(runtime) {}

  Runtime<Backend> runtime_;
};

/// One operand of a call that may stand for a batch: its leading axes are those that jax.vmap adds,
/// of extent 1 where the operand is the same for the whole batch. Without those axes, it is a
/// contiguous array.
class Operand {
 public:
  Operand(const xla::Buffer& buffer, int batch_axes, const Frame& frame) {
    view_.data = buffer.data;
    view_.dtype = dtype_of(buffer.dtype, frame.op());
    view_.device = frame.device();
    if (buffer.rank > kMaxRank || buffer.rank < batch_axes) {
      throw ValueError(std::string(frame.op()) + ": an operand has " + std::to_string(buffer.rank) +
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

/// The extents of a batch, from all operands.
template <class Operands>
std::vector<std::int64_t> extents_of(const Operands& operands) {
  std::vector<std::int64_t> extents((*operands.begin())->batch().size(), 1);
  for (const Operand* operand : operands) {
    for (std::size_t axis = 0; axis < extents.size(); ++axis) {
      if (operand->batch()[axis] != 1) extents[axis] = operand->batch()[axis];
    }
  }
  return extents;
}

inline std::vector<std::int64_t> extents_of(std::initializer_list<const Operand*> operands) {
  return extents_of<std::initializer_list<const Operand*>>(operands);
}

template <class F>
void for_each(const std::vector<std::int64_t>& extents, F&& body) {
  std::int64_t count = 1;
  for (const std::int64_t n : extents) count *= n;
  for (std::int64_t place = 0; place < count; ++place) body(place);
}

inline xla::Error* make_error(const xla::CallFrame& frame, const char* message,
                              xla::ErrorCode code = xla::ErrorCode::invalid_argument) {
  xla::ErrorCreateArgs args{.struct_size = sizeof(xla::ErrorCreateArgs),
                            .extension_start = nullptr,
                            .message = message,
                            .code = code};
  return frame.api->error_create(&args);
}

/// May XLA record what the handler queues and replay it (command buffers, which are CUDA graphs)?
/// An operation says so by a member of this name. It has no workspace: that of a call is freed
/// before the replay.
template <class Backend, template <class> class Operation>
inline constexpr bool kReplays =
    Backend::kDevice != DeviceType::cpu && requires { Operation<Backend>::kReplays; };

/// What XLA calls, on threads of its own, without the interpreter's lock.
template <class Backend, template <class> class Operation>
xla::Error* handle(xla::CallFrame* frame) noexcept {
  for (xla::Extension* next = frame->extension_start; next != nullptr; next = next->next) {
    if (next->type == xla::ExtensionType::metadata) {
      xla::Metadata& metadata = *reinterpret_cast<xla::MetadataExtension*>(next)->metadata;
      metadata.api_version = {.struct_size = sizeof(xla::ApiVersion),
                              .extension_start = nullptr,
                              .major_version = xla::kMajorVersion,
                              .minor_version = xla::kMinorVersion};
      metadata.traits = kReplays<Backend, Operation> ? xla::kCommandBufferCompatible : 0;
      return nullptr;
    }
  }
  if (frame->stage != xla::Stage::execute) return nullptr;
  try {
    Operation<Backend>::run(ForeignCall<Backend>(*frame, Operation<Backend>::kName));
    return nullptr;
  } catch (const Refusal& refusal) {
    return refusal.error;
  } catch (const CudaError& error) {
    return make_error(*frame, error.what(), xla::ErrorCode::internal);
  } catch (const std::exception& error) {
    return make_error(*frame, error.what());
  } catch (...) {
    return make_error(*frame, "an unknown error");
  }
}

/// Checks the shapes and types of a call.
template <template <class> class Operation>
void check(const pybind11::sequence& operands, const pybind11::sequence& results,
           const pybind11::dict& attributes) {
  const char* op = Operation<Shapes>::kName;
  const Described call(op, operands, results, attributes);
  Operation<Shapes>::run(ForeignCall<Shapes>(call.frame(), op));
}

template <class Backend, template <class> class Operation>
void add(Handlers& handlers) {
  const char* name = Operation<Backend>::kName;
  handlers.calls[name] = pybind11::capsule(reinterpret_cast<void*>(&handle<Backend, Operation>));
  if constexpr (Backend::kDevice == DeviceType::cpu) {
    handlers.checks[name] = pybind11::cpp_function(&check<Operation>);
  }
}

}  // namespace gossamer::python::ffi
