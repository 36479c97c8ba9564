#include "base/direct.h"

#include <string>
#include <utility>

#include "base/tensor.h"

namespace gossamer::python {
namespace {

// Never freed: no Python object may be released after the interpreter's end.
std::vector<Direct>& entries() {
  static auto* const all = new std::vector<Direct>();
  return *all;
}

const dlpack::ExchangeApi* table_of(const py::type& type) {
  const py::object capsule = py::getattr(type, dlpack::kExchangeAttribute, py::none());
  if (PyCapsule_IsValid(capsule.ptr(), dlpack::kExchangeName) == 0) return nullptr;
  const auto* api = static_cast<const dlpack::ExchangeApi*>(
      PyCapsule_GetPointer(capsule.ptr(), dlpack::kExchangeName));
  while (api != nullptr && api->version.major != dlpack::kMajorVersion) api = api->previous;
  return api != nullptr && api->borrow != nullptr ? api : nullptr;
}

std::vector<py::object> interned(const py::sequence& names) {
  std::vector<py::object> result;
  for (const py::handle name : names) {
    PyObject* text = name.inc_ref().ptr();
    PyUnicode_InternInPlace(&text);
    result.push_back(py::reinterpret_steal<py::object>(text));
  }
  return result;
}

/// Is a new reference to False? Errors of the framework's are cleared: Python will meet them again.
bool is_false(PyObject* answer) {
  if (answer == nullptr) PyErr_Clear();
  Py_XDECREF(answer);
  return answer == Py_False;
}

}  // namespace

const Direct* Direct::of(py::handle array) noexcept {
  auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(array.ptr()));
  for (const Direct& entry : entries()) {
    if (entry.type_.ptr() == type) return &entry;
  }
  return nullptr;
}

bool Direct::add(const py::type& type, const py::sequence& unset, const py::sequence& refused,
                 py::dict levels, const py::str& level, py::object detach, py::object written,
                 py::object empty, const py::dict& dtypes, py::object is_traced,
                 py::object constant) {
  for (const Direct& entry : entries()) {
    if (entry.type_.is(type)) return true;
  }
  const dlpack::ExchangeApi* api = table_of(type);
  if (api == nullptr) return false;
  Direct entry;
  entry.type_ = type;
  entry.api_ = api;
  entry.unset_ = interned(unset);
  entry.refused_ = interned(refused);
  entry.levels_ = std::move(levels);
  entry.level_ = interned(py::make_tuple(level)).front();
  entry.detach_ = Hook(std::move(detach));
  entry.written_ = Hook(std::move(written));
  entry.constant_ = Hook(std::move(constant));
  entry.empty_ = std::move(empty);
  entry.is_traced_ = std::move(is_traced);
  entry.option_names_ = py::make_tuple("dtype");
  for (const auto& [name, dtype] : dtypes) {
    const auto index = static_cast<std::size_t>(dtype_named(py::cast<std::string>(name)));
    entry.dtypes_[index] = py::reinterpret_borrow<py::object>(dtype);
  }
  entries().push_back(std::move(entry));
  return true;
}

/// May arrays have tangents? Every call asks: a look into a dict costs less than one at an array.
bool Direct::is_forward() const {
  PyObject* const level = PyDict_GetItemWithError(levels_.ptr(), level_.ptr());
  if (level == nullptr) {
    PyErr_Clear();
    return false;
  }
  const long depth = PyLong_AsLong(level);
  if (depth == -1) PyErr_Clear();
  return depth >= 0;
}

bool Direct::is_free(py::handle array) const {
  if (is_forward()) return false;
  for (const py::object& name : unset_) {
    if (!is_false(PyObject_GetAttr(array.ptr(), name.ptr()))) return false;
  }
  return true;
}

bool Direct::is_plain(py::handle array) const {
  if (!is_free(array)) return false;
  for (const py::object& name : refused_) {
    PyObject* arguments[] = {array.ptr()};
    constexpr std::size_t count = 1 | PY_VECTORCALL_ARGUMENTS_OFFSET;
    if (!is_false(PyObject_VectorcallMethod(name.ptr(), arguments, count, nullptr))) return false;
  }
  return true;
}

bool Direct::lies_at(py::handle array, dlpack::Tensor& tensor) const {
  if (api_->borrow(array.ptr(), &tensor) == 0) return tensor.device.type == dlpack::kCpu;
  PyErr_Clear();
  return false;
}

std::optional<dlpack::Tensor> Direct::borrow(py::handle array) const {
  return sleep_if_python_ends([&]() -> std::optional<dlpack::Tensor> {
    dlpack::Tensor tensor;
    if (!is_plain(array) || !lies_at(array, tensor)) return std::nullopt;
    return tensor;
  });
}

dlpack::ManagedTensorVersioned* Direct::keep(py::handle array) const {
  if (!borrow(array)) return nullptr;
  dlpack::ManagedTensorVersioned* managed = nullptr;
  const py::object detached = detach_(array);
  if (api_->export_managed(detached.ptr(), &managed) != 0) throw py::error_already_set();
  return managed;
}

// A trace that records the calls of its framework does not see ours.
bool Direct::is_traced() const { return !is_false(PyObject_CallNoArgs(is_traced_.ptr())); }

void Direct::written(py::handle array) const {
  written_(array);
  if (is_traced()) constant_();
}

py::object Direct::empty(const py::tuple& shape, DType dtype, dlpack::Tensor& tensor) const {
  const py::object& type = dtypes_[static_cast<std::size_t>(dtype)];
  if (!type || is_traced()) return {};
  PyObject* const arguments[] = {shape.ptr(), type.ptr()};
  PyObject* made = sleep_if_python_ends(
      [&] { return PyObject_Vectorcall(empty_.ptr(), arguments, 1, option_names_.ptr()); });
  if (made == nullptr) throw py::error_already_set();
  auto array = py::reinterpret_steal<py::object>(made);
  // Where the caller has set another default device, it is elsewhere or of another type.
  return of(array) != nullptr && lies_at(array, tensor) ? std::move(array) : py::object();
}

void bind_direct(py::module_& module) {
  module.def("lend_directly", &Direct::add, py::arg("type"), py::kw_only(), py::arg("unset"),
             py::arg("refused"), py::arg("levels"), py::arg("level"), py::arg("detach"),
             py::arg("written"), py::arg("empty"), py::arg("dtypes"), py::arg("is_traced"),
             py::arg("constant"));
}

}  // namespace gossamer::python
