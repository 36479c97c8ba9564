#pragma once

// A call of an operation from Python: its operands, its results and where it runs. A binding is a
// function template over the backend, written once and compiled for CPUs into _core and for GPUs
// into the extension for them.

#include <pybind11/pybind11.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/gil.h"
#include "base/hooks.h"
#include "base/import.h"
#include "base/output.h"
#include "base/parameters.h"
#include "gossamer/error.h"
#include "gossamer/tensor.h"

namespace gossamer::python {

/// Thrown where the first operand of a call is on a device of another kind than the backend's.
/// Where no other backend has the operation, this is the error that the caller gets.
class Elsewhere : public NotImplementedError {
 public:
  Elsewhere(Where where, Device device)
      : NotImplementedError(where.text() + " is on " + to_string(device) +
                            ", which this backend has no kernels for"),
        where_(where),
        device_(device) {}

  [[nodiscard]] Where where() const noexcept { return where_; }
  [[nodiscard]] Device device() const noexcept { return device_; }

 private:
  Where where_;
  Device device_;
};

/// The backend for CPUs: no stream, no workspace, done when an operation returns.
struct Cpu {
  static constexpr DeviceType kDevice = DeviceType::cpu;

  void follow(py::handle /*array*/, Where /*where*/) const noexcept {}
  [[nodiscard]] MaybeStream stream() const noexcept { return {}; }

  /// Stands for the memory that an operation on a GPU needs beside its operands.
  struct Workspace {};
  template <class F, class... Operands>
  [[nodiscard]] Workspace workspace(py::handle /*like*/, F&& /*bytes*/,
                                    const Operands&... /*operands*/) const noexcept {
    return {};
  }

  template <class F>
  auto run(Device /*device*/, F&& operation) const {
    const GilRelease unlocked;
    return operation();
  }
  template <class F>
  auto run(Device device, const Workspace& /*workspace*/, F&& operation) const {
    return run(device, operation);
  }
};

/// The arrays of the caller's that a call writes and whose framework wants to know. PyTorch counts
/// the writes to a tensor, so that no gradient is computed from what it no longer holds.
class WriteNotes {
 public:
  void add(py::handle array);
  void send() const;

 private:
  std::vector<py::object> arrays_;
};

/// One call. The first operand, a sparse matrix or an array, decides the device; all others must be
/// on it.
template <class Backend>
class Call {
 public:
  explicit Call(const char* op) noexcept : op_(op) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  /// The operation's name in messages.
  [[nodiscard]] const char* op() const noexcept { return op_; }
  [[nodiscard]] Where where(const char* argument) const noexcept { return {op_, argument}; }

  /// Notes the device of the first operand; false where it is not one of the backend's, so that the
  /// call is another's.
  [[nodiscard]] bool enter(const char* argument, Device device) noexcept {
    first_ = argument;
    device_ = device;
    return device.type == Backend::kDevice;
  }
  /// Did the first operand turn out to be on another kind of device?
  [[nodiscard]] bool is_elsewhere() const noexcept {
    return first_ != nullptr && device_.type != Backend::kDevice;
  }
  [[nodiscard]] Elsewhere elsewhere() const { return {where(first_), device_}; }

  /// Notes the device of an operand. Throws Elsewhere where the first one is not on a device of the
  /// backend's, ValueError where a later one is not beside the first.
  void settle(const char* argument, Device device) {
    if (first_ == nullptr) {
      if (!enter(argument, device)) throw elsewhere();
    } else if (!(device == device_)) {
      throw ValueError(where(argument).text() + " is on " + to_string(device) + ", expected " +
                       first_ + "'s device " + to_string(device_));
    }
  }

  /// The current stream of the framework of `array` is where the call is queued, unless an array
  /// before it decided that.
  void follow(py::handle array, const char* argument) { backend_.follow(array, where(argument)); }

  /// An operand that is read.
  [[nodiscard]] Import read(py::handle array, const char* argument) {
    follow(array, argument);
    return settled(Import::to_read(array, where(argument), backend_.stream()), argument);
  }
  /// Nothing for None.
  [[nodiscard]] std::optional<Import> read_optional(py::handle array, const char* argument) {
    if (array.is_none()) return std::nullopt;
    return read(array, argument);
  }

  /// An operand that is changed in place.
  [[nodiscard]] Import write(py::handle array, const char* argument) {
    follow(array, argument);
    Import import = settled(Import::to_write(array, where(argument), backend_.stream()), argument);
    notes_.add(array);
    return import;
  }

  /// A new array of the framework of `like`.
  [[nodiscard]] Output create(const char* argument, py::handle like, const Shape& shape,
                              DType dtype) const {
    return {where(argument), like, shape, dtype};
  }
  /// `out`, or a new array where that is None. Shape and type of `out` are the operation's to
  /// check.
  [[nodiscard]] Output output(py::handle out, py::handle like, const Shape& shape, DType dtype,
                              const char* argument = "out") {
    if (out.is_none()) return create(argument, like, shape, dtype);
    Output result(where(argument), out, backend_.stream());
    settle(argument, result.view().device);
    notes_.add(out);
    return result;
  }

  /// Memory from the framework of `like` of bytes(operands…) bytes; on a CPU, none.
  template <class F, class... Operands>
  [[nodiscard]] auto workspace(py::handle like, F&& bytes, const Operands&... operands) const {
    return backend_.workspace(like, bytes, operands...);
  }

  /// Runs operation(queue…) without the interpreter's lock. `queue` is nothing on a CPU; on a GPU,
  /// the workspace where one is given, and the stream.
  template <class F>
  auto run(F&& operation) const {
    return noted([&] { return backend_.run(device_, operation); });
  }
  template <class Workspace, class F>
  auto run(const Workspace& workspace, F&& operation) const {
    return noted([&] { return backend_.run(device_, workspace, operation); });
  }

 private:
  [[nodiscard]] Import settled(Import import, const char* argument) {
    settle(argument, import.view().device);
    return import;
  }

  /// Runs what writes. Where a check refused the call, nothing was written.
  template <class F>
  auto noted(F&& operation) const {
    try {
      if constexpr (std::is_void_v<decltype(operation())>) {
        operation();
        notes_.send();
      } else {
        auto result = operation();
        notes_.send();
        return result;
      }
    } catch (const std::logic_error&) {
      throw;
    } catch (...) {
      notes_.send();
      throw;
    }
  }

  const char* op_;
  Backend backend_;
  const char* first_ = nullptr;
  Device device_;
  WriteNotes notes_;
};

/// A function of the extensions, and its name in messages where that is another one.
struct Name {
  Name(const char* function_name) : function(function_name), op(function_name) {}  // NOLINT
  Name(const char* function_name, const char* op_name) : function(function_name), op(op_name) {}

  const char* function;
  const char* op;
};

/// Calls a binding, or `there` on the arguments as they were given where the first operand is on a
/// GPU: the extension for GPUs has a function of the same name and parameters; without one, the
/// caller gets NotImplementedError. This is the one place that looks at a device to choose a
/// backend.
template <class Backend, class Binding, class There>
py::object dispatch(const Name& name, Binding&& binding, There&& there) {
  Call<Backend> call(name.op);
  try {
    py::object result = py::none();
    using Result = decltype(binding(call));
    if constexpr (std::is_void_v<Result>) {
      binding(call);
    } else if constexpr (std::is_base_of_v<py::object, Result>) {
      result = binding(call);
    } else {
      result = py::cast(binding(call));
    }
    if (!call.is_elsewhere()) return result;
  } catch (const Elsewhere&) {
    if (!call.is_elsewhere()) throw;
  }
  const Elsewhere elsewhere = call.elsewhere();
  const py::object function = Backend::kDevice == DeviceType::cpu
                                  ? on_gpu(elsewhere.where(), elsewhere.device(), name.function)
                                  : py::object();
  if (!function) throw elsewhere;
  return there(Hook(function));
}

/// What a binding's parameters are read as.
template <class T>
using ReaderOf = Parameter<std::remove_cvref_t<T>>;

/// Calls a binding with what was given, read by the names of its parameters from the first on.
template <class Backend, class Result, class... Parameters, std::size_t... I>
Result call_with(Call<Backend>& call, Result (*binding)(Call<Backend>&, Parameters...),
                 const std::array<const char*, sizeof...(Parameters)>& names,
                 std::index_sequence<I...> /*positions*/,
                 const typename ReaderOf<Parameters>::Given&... given) {
  // In braces, which fix the order.
  const std::tuple<decltype(ReaderOf<Parameters>::read(Where(), given))...> read{
      ReaderOf<Parameters>::read(call.where(names[I]), given)...};
  return std::apply(
      [&](const auto&... parameters) -> Result { return binding(call, parameters...); }, read);
}

/// Adds a binding to an extension under its name, with the names of its parameters.
template <class Backend, class Result, class... Parameters, class... Arguments>
void define(py::module_& module, const Name& name, Result (*binding)(Call<Backend>&, Parameters...),
            const Arguments&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  const std::array<const char*, sizeof...(Arguments)> names{arguments.name...};
  module.def(
      name.function,
      [name, binding, names](typename ReaderOf<Parameters>::Given... given) {
        return dispatch<Backend>(
            name,
            [&](Call<Backend>& call) {
              return call_with(call, binding, names, std::index_sequence_for<Parameters...>(),
                               given...);
            },
            [&](const Hook& there) { return there(given...); });
      },
      arguments...);
}

}  // namespace gossamer::python
