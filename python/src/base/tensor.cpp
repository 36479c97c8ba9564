#include "base/tensor.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "base/dlpack.h"
#include "gossamer/error.h"

namespace gossamer::python {
namespace {

// jax.numpy.from_dlpack aliases memory of this alignment and silently copies other.
constexpr std::align_val_t kAlignment{64};

constexpr std::array kDTypes = {DType::f32, DType::f64, DType::f16, DType::bf16,   DType::i32,
                                DType::i64, DType::u8,  DType::u16, DType::boolean};

dlpack::DataType dlpack_type(DType dtype) {
  const auto bits = static_cast<std::uint8_t>(8 * size_of(dtype));
  switch (dtype) {
    case DType::f32:
    case DType::f64:
    case DType::f16:
      return {dlpack::kFloat, bits, 1};
    case DType::bf16:
      return {dlpack::kBfloat, bits, 1};
    case DType::i32:
    case DType::i64:
      return {dlpack::kInt, bits, 1};
    case DType::u8:
    case DType::u16:
      return {dlpack::kUInt, bits, 1};
    case DType::boolean:
      return {dlpack::kBool, bits, 1};
  }
  return {};
}

dlpack::Device dlpack_device(Device device) {
  return {static_cast<std::int32_t>(device.type), device.index};
}

std::shared_ptr<void> allocate(std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1));
  // The address sanitizer ends the process where the form that throws would.
  void* memory = ::operator new(size, kAlignment, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return {memory, [](void* data) { ::operator delete(data, kAlignment); }};
}

// What a capsule owns. Its deleter touches no Python: a consumer may call it from any thread.
template <class Managed>
struct Export {
  static constexpr const char* kName =
      std::is_same_v<Managed, dlpack::ManagedTensor> ? dlpack::kLegacyName : dlpack::kVersionedName;

  Managed managed = {};
  TensorView view;
  std::shared_ptr<void> storage;

  static void destroy(Managed* managed) { delete static_cast<Export*>(managed->context); }
};

template <class Managed>
py::capsule make_capsule(const TensorView& view, std::shared_ptr<void> storage, Managed managed) {
  auto owned = std::make_unique<Export<Managed>>();
  owned->managed = managed;
  owned->view = view;
  owned->storage = std::move(storage);
  owned->managed.context = owned.get();
  owned->managed.deleter = &Export<Managed>::destroy;
  owned->managed.tensor = {.data = view.data,
                           .device = dlpack_device(view.device),
                           .ndim = view.rank,
                           .dtype = dlpack_type(view.dtype),
                           .shape = owned->view.shape.data(),
                           .strides = owned->view.strides.data(),
                           .byte_offset = 0};
  // A consumer renames the capsule and takes over; under its first name it is still ours to free.
  PyObject* capsule = PyCapsule_New(&owned->managed, Export<Managed>::kName, [](PyObject* self) {
    if (PyCapsule_IsValid(self, Export<Managed>::kName) == 0) return;
    auto* pointer = static_cast<Managed*>(PyCapsule_GetPointer(self, Export<Managed>::kName));
    pointer->deleter(pointer);
  });
  if (capsule == nullptr) throw py::error_already_set();
  static_cast<void>(owned.release());
  return py::reinterpret_steal<py::capsule>(capsule);
}

py::capsule to_dlpack(const Tensor& self, const py::object& stream,
                      const std::optional<std::pair<int, int>>& max_version,
                      const std::optional<std::pair<int, int>>& dl_device,
                      const std::optional<bool>& copy) {
  const Device device = self.view().device;
  const bool cpu = device.type == DeviceType::cpu;
  // What is on a GPU was waited for when it was made, so that any stream may read it.
  if (cpu && !stream.is_none()) {
    throw ValueError("Tensor.__dlpack__: stream must be None on the CPU");
  }
  const dlpack::Device here = dlpack_device(device);
  if (dl_device && *dl_device != std::pair(int{here.type}, int{here.id})) {
    throw py::buffer_error("Tensor.__dlpack__: the tensor is on " + to_string(device));
  }
  if (!cpu && copy.value_or(false)) {
    throw py::buffer_error("Tensor.__dlpack__: no copies are made on a GPU");
  }
  return self.export_capsule(max_version && max_version->first >= 1, copy.value_or(false));
}

}  // namespace

DType dtype_named(const std::string& name, const std::string& where) {
  for (const DType dtype : kDTypes) {
    if (name == name_of(dtype)) return dtype;
  }
  throw TypeError(where + " is " + name + ", which gossamer does not know");
}

Tensor::Tensor(const std::vector<std::int64_t>& shape, DType dtype)
    : Tensor(shape, dtype, Device{}, &allocate) {}

Tensor::Tensor(const std::vector<std::int64_t>& shape, DType dtype, Device device,
               const std::function<std::shared_ptr<void>(std::int64_t)>& allocate) {
  if (shape.size() > static_cast<std::size_t>(kMaxRank)) {
    throw ValueError("Tensor: rank is " + std::to_string(shape.size()) + ", expected at most " +
                     std::to_string(kMaxRank));
  }
  view_.dtype = dtype;
  view_.device = device;
  view_.rank = static_cast<int>(shape.size());
  std::int64_t stride = 1, bytes = 0;
  bool beyond = false;
  for (std::size_t d = shape.size(); d-- > 0;) {
    if (shape[d] < 0) throw ValueError("Tensor: an extent is negative");
    view_.shape[d] = shape[d];
    view_.strides[d] = stride;
    const std::int64_t extent = std::max<std::int64_t>(shape[d], 1);
    beyond = __builtin_mul_overflow(stride, extent, &stride) || beyond;
  }
  if (beyond || __builtin_mul_overflow(stride, size_of(dtype), &bytes)) {
    throw ValueError("Tensor: shape is " + shape_string(view_) +
                     ", expected fewer than 2**63 bytes");
  }
  storage_ = allocate(view_.numel() * size_of(dtype));
  view_.data = storage_.get();
}

py::capsule Tensor::export_capsule(bool versioned, bool copy) const {
  TensorView view = view_;
  std::shared_ptr<void> storage = storage_;
  if (copy) {
    const std::int64_t bytes = view.numel() * size_of(view.dtype);
    storage = allocate(bytes);
    std::memcpy(storage.get(), view.data, static_cast<std::size_t>(bytes));
    view.data = storage.get();
  }
  if (!versioned) {
    return make_capsule(view, std::move(storage), dlpack::ManagedTensor{});
  }
  dlpack::ManagedTensorVersioned managed = {};
  managed.version = {dlpack::kMajorVersion, dlpack::kMinorVersion};
  managed.flags = copy ? std::uint64_t{dlpack::kIsCopied} : 0;
  return make_capsule(view, std::move(storage), managed);
}

bool is_tensor(py::handle object) {
  static PyObject* const type = py::type::of<Tensor>().release().ptr();
  return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == type;
}

void bind_tensor(py::module_& module) {
  py::class_<Tensor>(module, "Tensor", py::is_final(),
                     "A contiguous array that gossamer owns; consume it with from_dlpack.")
      .def(py::init([](const std::vector<std::int64_t>& shape, const std::string& dtype) {
             return Tensor(shape, dtype_named(dtype));
           }),
           py::arg("shape"), py::arg("dtype"))
      .def_property_readonly("shape",
                             [](const Tensor& self) {
                               const TensorView& view = self.view();
                               py::tuple shape(view.rank);
                               for (int d = 0; d < view.rank; ++d) {
                                 shape[static_cast<std::size_t>(d)] =
                                     view.shape[static_cast<std::size_t>(d)];
                               }
                               return shape;
                             })
      .def_property_readonly("dtype", [](const Tensor& self) { return name_of(self.view().dtype); })
      .def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none())
      .def("__dlpack_device__", [](const Tensor& self) {
        const dlpack::Device device = dlpack_device(self.view().device);
        return std::pair(device.type, device.id);
      });
}

}  // namespace gossamer::python
