#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gossamer/tensor.h"

namespace gossamer::python {

namespace py = pybind11;

inline constexpr std::size_t kDTypeCount = static_cast<std::size_t>(DType::boolean) + 1;

/// The type that `name_of` calls by this name. Throws TypeError for other names.
DType dtype_named(const std::string& name, const std::string& where = "dtype");

/// A C-contiguous array in memory of our own, for frameworks that cannot allocate a result which
/// native code may then fill. It is handed over through DLPack.
class Tensor {
 public:
  /// On the CPU.
  Tensor(const std::vector<std::int64_t>& shape, DType dtype);
  /// Over memory on `device` that `allocate` gives for a number of bytes.
  Tensor(const std::vector<std::int64_t>& shape, DType dtype, Device device,
         const std::function<std::shared_ptr<void>(std::int64_t)>& allocate);

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }
  [[nodiscard]] const std::shared_ptr<void>& storage() const noexcept { return storage_; }

  /// A new capsule: versioned where the consumer says that it knows version 1, else legacy.
  [[nodiscard]] py::capsule export_capsule(bool versioned, bool copy) const;

 private:
  TensorView view_;
  std::shared_ptr<void> storage_;
};

bool is_tensor(py::handle object);

void bind_tensor(py::module_& module);

}  // namespace gossamer::python
