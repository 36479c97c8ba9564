#include "formats/compressed.h"

#include <limits>

#include "formats/convert.h"
#include "gossamer/error.h"

namespace gossamer::python {
namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

bool is_index(DType dtype) { return dtype == DType::i32 || dtype == DType::i64; }

}  // namespace

DType index_type(std::int64_t rows, std::int64_t cols, std::int64_t entries) {
  return std::max({rows, cols, entries}) <= kMaxInt32 ? DType::i32 : DType::i64;
}

DType choose_index_type(const char* name, const std::optional<std::string>& wanted, DType indptr,
                        DType indices, DType narrowest) {
  if (wanted) {
    if (*wanted == "int32") return DType::i32;
    if (*wanted == "int64") return DType::i64;
    throw ValueError(std::string(name) + ": index_dtype is '" + *wanted +
                     "', expected 'int32', 'int64' or None");
  }
  if (indptr == DType::i32 && indices == DType::i32) return DType::i32;
  return narrowest;
}

void check_int32_extents(const char* name, std::int64_t rows, std::int64_t cols) {
  for (const std::int64_t axis : {0, 1}) {
    const std::int64_t extent = axis == 0 ? rows : cols;
    if (extent > kMaxInt32) {
      throw ValueError(std::string(name) + ": shape[" + std::to_string(axis) + "] is " +
                       std::to_string(extent) + ", expected at most " + std::to_string(kMaxInt32) +
                       " for int32 indices");
    }
  }
}

bool convertible(const TensorView& indptr, const TensorView& indices) {
  return is_index(indptr.dtype) && is_index(indices.dtype) && indptr.rank == 1 &&
         indices.rank == 1 && is_contiguous(indptr) && is_contiguous(indices);
}

py::object converted(const py::object& array, const Import& from, DType to) {
  if (from.view().dtype == to) return array;
  return dispatch<Cpu>(
      kConvertIndices,
      [&](Call<Cpu>& call) { return convert_indices_binding(call, array, name_of(to)); },
      [&](const Hook& there) { return there(array, name_of(to)); });
}

Import host_copy(Where where, const Component& part) {
  return Import::to_read(on_gpu(where, part.view().device, "to_host")(part.array), where);
}

HostIndices::HostIndices(const char* format, const py::object& indptr, const py::object& indices,
                         Device device)
    : HostIndices(on_gpu({format, "indptr"}, device, "to_host"), format, indptr, indices) {}

HostIndices::HostIndices(const py::object& to_host, const char* format, const py::object& indptr,
                         const py::object& indices)
    : indptr_(Import::to_read(to_host(indptr), {format, "indptr"})),
      indices_(Import::to_read(to_host(indices), {format, "indices"})) {}

}  // namespace gossamer::python
