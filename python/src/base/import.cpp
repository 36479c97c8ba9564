#include "base/import.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <optional>
#include <string>

#include "base/direct.h"
#include "base/dlpack.h"
#include "base/hooks.h"
#include "base/tensor.h"
#include "gossamer/error.h"

namespace gossamer::python {
namespace {

template <class Managed>
void release(void* pointer) {
  auto* managed = static_cast<Managed*>(pointer);
  if (managed->deleter != nullptr) managed->deleter(managed);
}

[[noreturn]] void unknown_type(Where where, const std::string& got) {
  throw TypeError(where.text() + " has element type " + got +
                  ", expected float32, float64, float16, bfloat16, or int32, int64 for indices, or "
                  "bool, uint8 for masks");
}

// ml_dtypes registers bfloat16 with NumPy at run time, so its number is looked up by name once.
bool is_numpy_bfloat16(const py::dtype& dtype) {
  static int known = -1;
  if (dtype.num() == known) return true;
  if (dtype.itemsize() != 2 || py::cast<std::string>(dtype.attr("name")) != "bfloat16")
    return false;
  known = dtype.num();
  return true;
}

}  // namespace

DType numpy_dtype(const py::dtype& dtype, Where where) {
  const char order = dtype.byteorder();
  if (order == '=' || order == '|') {
    switch (dtype.kind()) {
      case 'f':
        if (dtype.itemsize() == 4) return DType::f32;
        if (dtype.itemsize() == 8) return DType::f64;
        if (dtype.itemsize() == 2) return DType::f16;
        break;
      case 'i':
        if (dtype.itemsize() == 4) return DType::i32;
        if (dtype.itemsize() == 8) return DType::i64;
        break;
      case 'u':
        if (dtype.itemsize() == 1) return DType::u8;
        if (dtype.itemsize() == 2) return DType::u16;
        break;
      case 'b':
        return DType::boolean;
      default:
        if (is_numpy_bfloat16(dtype)) return DType::bf16;
    }
  }
  unknown_type(where, py::str(dtype));
}

namespace {

/// What frameworks call a type that is none of ours.
std::string foreign_name(dlpack::DataType type) {
  static constexpr const char* kKinds[] = {"int", "uint", "float", "", "bfloat", "complex"};
  static constexpr const char* kFloat8[] = {"e3m4",     "e4m3", "e4m3b11fnuz", "e4m3fn",
                                            "e4m3fnuz", "e5m2", "e5m2fnuz",    "e8m0fnu"};
  if (type.lanes == 1) {
    if (type.code < std::size(kKinds) && type.code != dlpack::kOpaque) {
      return kKinds[type.code] + std::to_string(type.bits);
    }
    const std::size_t float8 = std::size_t{type.code} - dlpack::kFloat8;
    if (float8 < std::size(kFloat8) && type.bits == 8) {
      return std::string("float8_") + kFloat8[float8];
    }
  }
  return "with DLPack code " + std::to_string(type.code) + ", " + std::to_string(type.bits) +
         " bits and " + std::to_string(type.lanes) + " lanes";
}

DType from_dlpack_type(dlpack::DataType type, Where where) {
  if (type.lanes == 1) {
    switch (type.code) {
      case dlpack::kFloat:
        if (type.bits == 32) return DType::f32;
        if (type.bits == 64) return DType::f64;
        if (type.bits == 16) return DType::f16;
        break;
      case dlpack::kBfloat:
        if (type.bits == 16) return DType::bf16;
        break;
      case dlpack::kInt:
        if (type.bits == 32) return DType::i32;
        if (type.bits == 64) return DType::i64;
        break;
      case dlpack::kUInt:
        if (type.bits == 8) return DType::u8;
        if (type.bits == 16) return DType::u16;
        break;
      case dlpack::kBool:
        if (type.bits == 8) return DType::boolean;
        break;
      default:
        break;
    }
  }
  unknown_type(where, foreign_name(type));
}

/// Throws for devices that this build has no kernels for.
Device from_dlpack_device(dlpack::Device device, Where where) {
  switch (device.type) {
    case dlpack::kCpu:
    case dlpack::kCudaHost:
    case dlpack::kRocmHost:
      return {};
    case dlpack::kCuda:
    case dlpack::kCudaManaged:
      static_cast<void>(hooks().cuda(where.op, where.argument, device.id));
      return {DeviceType::cuda, device.id};
    default:
      throw NotImplementedError(where.text() + " is on a device of DLPack type " +
                                std::to_string(device.type) + ", expected the CPU or CUDA");
  }
}

void check_rank(std::int64_t rank, Where where) {
  if (rank >= 0 && rank <= kMaxRank) return;
  throw ValueError(where.text() + ".ndim is " + std::to_string(rank) + ", expected at most " +
                   std::to_string(kMaxRank));
}

// Producers put anything into the strides of axes that are never stepped along; give those the
// values of a compact array, so that no operation has to know.
void normalise_strides(TensorView& view) {
  const bool empty = view.numel() == 0;
  std::int64_t compact = 1;
  for (auto d = static_cast<std::size_t>(view.rank); d-- > 0;) {
    if (empty || view.shape[d] == 1) view.strides[d] = compact;
    compact = view.shape[d] > 1 ? view.strides[d] * view.shape[d] : view.strides[d];
  }
}

// A producer may put anything into a capsule: no extent is negative, and no offset within the array
// is beyond int64, in bytes.
void check_extents(const TensorView& view, Where where) {
  std::int64_t elements = size_of(view.dtype);
  bool beyond = false;
  for (std::size_t d = 0; d < static_cast<std::size_t>(view.rank); ++d) {
    if (view.shape[d] < 0) {
      throw ValueError(where.text() + ".shape[" + std::to_string(d) + "] is " +
                       std::to_string(view.shape[d]) + ", expected at least 0");
    }
    const std::int64_t extent = std::max<std::int64_t>(view.shape[d], 1);
    beyond = __builtin_mul_overflow(elements, extent, &elements) || beyond;
  }
  if (beyond) {
    throw ValueError(where.text() + ".shape is " + shape_string(view) +
                     ", expected fewer than 2**63 bytes");
  }
}

void check_strides(const TensorView& view, Where where) {
  const std::int64_t item = size_of(view.dtype);
  std::int64_t span = item;
  for (std::size_t d = 0; d < static_cast<std::size_t>(view.rank); ++d) {
    if (view.shape[d] <= 1) continue;
    std::int64_t reach = 0;
    const std::int64_t steps = view.shape[d] - 1;
    if (__builtin_mul_overflow(view.strides[d], item, &reach) ||
        __builtin_mul_overflow(reach, steps, &reach) ||
        reach == std::numeric_limits<std::int64_t>::min() ||
        __builtin_add_overflow(span, std::abs(reach), &span)) {
      throw ValueError(where.text() + ".strides[" + std::to_string(d) + "] is " +
                       std::to_string(view.strides[d]) + ", expected a span below 2**63 bytes");
    }
  }
}

TensorView from_dltensor(const dlpack::Tensor& tensor, Where where) {
  check_rank(tensor.ndim, where);
  TensorView view;
  view.device = from_dlpack_device(tensor.device, where);
  view.dtype = from_dlpack_type(tensor.dtype, where);
  view.rank = tensor.ndim;
  if (view.rank > 0 && tensor.shape == nullptr) {
    throw ValueError(where.text() + " is exported without its shape");
  }
  std::copy_n(tensor.shape, view.rank, view.shape.begin());
  check_extents(view, where);
  std::int64_t compact = 1;
  for (auto d = static_cast<std::size_t>(view.rank); d-- > 0;) {
    view.strides[d] = tensor.strides != nullptr ? tensor.strides[d] : compact;
    compact *= std::max<std::int64_t>(view.shape[d], 1);
  }
  check_strides(view, where);
  if (tensor.data != nullptr) view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  return view;
}

}  // namespace

// The last steps for every kind of array.
void Import::finish(Where where) {
  normalise_strides(view_);
  if (view_.numel() == 0) return;
  if (view_.data == nullptr) {
    throw ValueError(where.text() + " has no data (a fake or deferred array?)");
  }
  if (reinterpret_cast<std::uintptr_t>(view_.data) %
          static_cast<std::uintptr_t>(size_of(view_.dtype)) !=
      0) {
    throw ValueError(where.text() + ": its data is not aligned to its element size");
  }
}

Import Import::from_numpy(py::handle object, Where where) {
  const auto array = py::reinterpret_borrow<py::array>(object);
  check_rank(array.ndim(), where);
  Import result;
  TensorView& view = result.view_;
  view.dtype = numpy_dtype(array.dtype(), where);
  view.rank = static_cast<int>(array.ndim());
  view.readonly = !array.writeable();
  view.data = const_cast<void*>(array.data());
  const std::int64_t item = size_of(view.dtype);
  for (std::size_t d = 0; d < static_cast<std::size_t>(view.rank); ++d) {
    view.shape[d] = array.shape()[d];
    const std::int64_t bytes = array.strides()[d];
    if (bytes % item != 0 && view.shape[d] > 1) {
      throw ValueError(where.text() + ".strides[" + std::to_string(d) + "] is " +
                       std::to_string(bytes) + " bytes, expected a multiple of the element size " +
                       std::to_string(item));
    }
    view.strides[d] = bytes / item;
  }
  result.object_ = py::reinterpret_borrow<py::object>(object);
  result.finish(where);
  return result;
}

Import Import::from_managed(dlpack::ManagedTensorVersioned* managed, Where where) {
  Import result;
  result.managed_ = {managed, &release<dlpack::ManagedTensorVersioned>};
  if (managed->version.major != dlpack::kMajorVersion) {
    throw py::buffer_error(where.text() + " is exported with DLPack version " +
                           std::to_string(managed->version.major) + ", expected 1");
  }
  result.view_ = from_dltensor(managed->tensor, where);
  result.view_.readonly = (managed->flags & dlpack::kReadOnly) != 0;
  result.finish(where);
  return result;
}

Import Import::from_capsule(py::handle capsule, Where where) {
  PyObject* object = capsule.ptr();
  // Renamed at once: from there on the import alone answers for the producer's memory.
  if (PyCapsule_IsValid(object, dlpack::kVersionedName) != 0) {
    void* managed = PyCapsule_GetPointer(object, dlpack::kVersionedName);
    PyCapsule_SetName(object, dlpack::kVersionedUsedName);
    return from_managed(static_cast<dlpack::ManagedTensorVersioned*>(managed), where);
  }
  if (PyCapsule_IsValid(object, dlpack::kLegacyName) == 0) {
    throw TypeError(where.text() + ".__dlpack__() did not return a fresh DLPack capsule");
  }
  auto* managed =
      static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(object, dlpack::kLegacyName));
  PyCapsule_SetName(object, dlpack::kLegacyUsedName);
  Import result;
  result.managed_ = {managed, &release<dlpack::ManagedTensor>};
  result.view_ = from_dltensor(managed->tensor, where);
  result.finish(where);
  return result;
}

Import Import::from_tensor(py::handle tensor) {
  Import result;
  result.view_ = tensor.cast<const Tensor&>().view();
  result.object_ = py::reinterpret_borrow<py::object>(tensor);
  return result;
}

Import Import::from_borrowed(const dlpack::Tensor& tensor, py::handle array, Where where) {
  Import result;
  result.view_ = from_dltensor(tensor, where);
  result.object_ = py::reinterpret_borrow<py::object>(array);
  result.finish(where);
  return result;
}

Import Import::from_lent(const py::object& lent, Where where) {
  return is_ndarray(lent) ? from_numpy(lent, where) : from_capsule(lent, where);
}

Import Import::from_call(py::handle array, Where where, const Hook& borrow, MaybeStream stream) {
  if (is_ndarray(array)) return from_numpy(array, where);
  if (const Direct* direct = Direct::of(array)) {
    if (const std::optional<dlpack::Tensor> tensor = direct->borrow(array)) {
      return from_borrowed(*tensor, array, where);
    }
  } else if (is_tensor(array)) {
    return from_tensor(array);
  }
  return from_lent(stream ? borrow(array, where.op, where.argument, *stream)
                          : borrow(array, where.op, where.argument),
                   where);
}

Import Import::to_read(py::handle array, Where where, MaybeStream stream) {
  return from_call(array, where, hooks().borrow, stream);
}

Import Import::to_write(py::handle array, Where where, MaybeStream stream) {
  return from_call(array, where, hooks().borrow_out, stream);
}

Import Import::of_new(py::object array, const TensorView& view) {
  Import result;
  result.view_ = view;
  result.object_ = std::move(array);
  return result;
}

Import Import::to_keep(py::handle array, Where where) {
  if (is_ndarray(array)) return from_numpy(array, where);
  if (is_tensor(array)) return from_tensor(array);
  if (const Direct* direct = Direct::of(array)) {
    if (auto* managed = direct->keep(array)) return from_managed(managed, where);
  }
  const py::object lent = hooks().keep(array, where.op, where.argument);
  // Of a subclass of numpy.ndarray the array itself is kept: garbage collection does not see
  // through a view to what it is a view of.
  if (is_ndarray(lent) && py::isinstance<py::array>(array)) return from_numpy(array, where);
  return from_lent(lent, where);
}

void require_plain(py::handle array, Where where) {
  if (is_ndarray(array) || is_tensor(array)) return;
  if (const Direct* direct = Direct::of(array); direct != nullptr && direct->is_free(array)) return;
  hooks().admit(array, where.op, where.argument);
}

std::optional<TensorView> view_of(const std::optional<Import>& import) {
  if (!import) return std::nullopt;
  return import->view();
}

}  // namespace gossamer::python
