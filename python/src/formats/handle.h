#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "base/call.h"
#include "base/import.h"
#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/error.h"
#include "gossamer/group_quant.h"
#include "gossamer/nm.h"
#include "gossamer/packed.h"
#include "gossamer/packed_tiles.h"

namespace gossamer::python {

/// An array of the caller's that a matrix looks into.
struct Component {
  Component(py::object given, Where where)
      : array(std::move(given)), import(Import::to_keep(array, where)) {}

  [[nodiscard]] const TensorView& view() const noexcept { return import.view(); }

  py::object array;
  Import import;
};

/// A matrix together with its arrays; a BSR's values are its blocks. Each handle has references of
/// its own, which garbage collection counts.
template <class Format>
struct Handle {
  template <class Visit>
  int objects(Visit&& visit) const {
    for (const Component* part : {&indptr, &indices, &values}) {
      if (const int result = visit(part->array)) return result;
      if (const int result = visit(part->import.object())) return result;
    }
    return 0;
  }

  Component indptr, indices, values;
  Format matrix;
  /// Shared by the matrices that differ in values only.
  std::shared_ptr<const bool> structure = std::make_shared<const bool>();
};
using CsrHandle = Handle<Csr>;
using BsrHandle = Handle<Bsr>;

/// An N:M matrix has no row pointers.
template <>
struct Handle<Nm> {
  template <class Visit>
  int objects(Visit&& visit) const {
    for (const Component* part : {&values, &indices}) {
      if (const int result = visit(part->array)) return result;
      if (const int result = visit(part->import.object())) return result;
    }
    return 0;
  }

  Component values, indices;
  Nm matrix;
};
using NmHandle = Handle<Nm>;

template <>
struct Handle<GroupQuant> {
  template <class Visit>
  int objects(Visit&& visit) const {
    for (const Component* part : {&indptr, &indices, &codes, &scales, &zeros}) {
      if (const int result = visit(part->array)) return result;
      if (const int result = visit(part->import.object())) return result;
    }
    return 0;
  }

  Component indptr, indices, codes, scales, zeros;
  GroupQuant matrix;
};
using QuantHandle = Handle<GroupQuant>;

template <>
struct Handle<cuda::PackedTiles> {
  template <class Visit>
  int objects(Visit&& visit) const {
    for (const Component* part : {&values, &places, &starts, &indptr}) {
      if (const int result = visit(part->array)) return result;
      if (const int result = visit(part->import.object())) return result;
    }
    return 0;
  }

  Component values, places, starts, indptr;
  cuda::PackedTiles matrix;
  std::optional<std::int64_t> width;         // the number of columns that it was packed for
  std::optional<std::int64_t> before_dense;  // with more columns, dense is predicted to be faster
};
using PackedTilesHandle = Handle<cuda::PackedTiles>;

/// Formats that are in the memory of CPUs only, and of GPUs.
template <class Format>
inline constexpr bool kOfCpus = std::is_same_v<Format, Packed>;
template <class Format>
inline constexpr bool kOfGpus = std::is_same_v<Format, cuda::PackedTiles>;

/// The structure of a CSR matrix, without values or with several sets of them, [..., nnz].
struct PatternHandle {
  template <class Visit>
  int objects(Visit&& visit) const {
    for (const Component* part : {&indptr, &indices, values ? &*values : nullptr}) {
      if (part == nullptr) continue;
      if (const int result = visit(part->array)) return result;
      if (const int result = visit(part->import.object())) return result;
    }
    return 0;
  }

  Component indptr, indices;
  std::optional<Component> values;
  CsrPattern matrix;
  std::shared_ptr<const bool> structure = std::make_shared<const bool>();
};

/// What the Python object of a format holds.
template <class Format>
using Held = std::conditional_t<std::is_same_v<Format, Packed>, Packed, Handle<Format>>;

template <class Format>
const Format& matrix_of(const Handle<Format>& a) {
  return a.matrix;
}
inline const Packed& matrix_of(const Packed& a) { return a; }

/// What `object` holds, or null where it is of another type. Overloads of one name would cost a
/// failed conversion for every format but the first: 1 µs.
template <class Format>
const Held<Format>* as(py::handle object) {
  static PyTypeObject* const type =
      reinterpret_cast<PyTypeObject*>(py::type::of<Held<Format>>().release().ptr());
  return Py_TYPE(object.ptr()) == type ? py::cast<const Held<Format>*>(object) : nullptr;
}

/// What a CSR object holds, whatever its values.
struct PatternView {
  CsrPattern matrix;
  std::optional<TensorView> values;  // [..., nnz]
  py::object like;                   // the values' array, or where there are none that of indices
};

/// Throws for a CSR without one value an entry.
[[noreturn]] inline void not_one_matrix(Where where, const PatternHandle& a) {
  const std::string expected =
      ", expected an array of shape (" + std::to_string(a.matrix.nnz()) + ",)";
  if (!a.values) throw ValueError(where.text() + ".values is None" + expected);
  throw ValueError(where.text() + ".values.shape is " + shape_string(a.values->view()) + expected);
}

[[noreturn]] inline void not_a_matrix(Where where, py::handle object) {
  if (py::isinstance<PatternHandle>(object)) {
    not_one_matrix(where, py::cast<const PatternHandle&>(object));
  }
  // The arrays of a traced function, in a matrix without memory, say so themselves.
  if (py::hasattr(object, "refuse")) object.attr("refuse")(where.op, where.argument);
  throw TypeError(where.text() + " is a " + Py_TYPE(object.ptr())->tp_name +
                  ", expected a sparse matrix");
}

template <class Format>
void require_plain_values(const Handle<Format>& held, Where where) {
  require_plain(held.values.array, where);
}
inline void require_plain_values(const Packed& /*held*/, Where /*where*/) {}
inline void require_plain_values(const QuantHandle& held, Where where) {
  require_plain(held.codes.array, where);
}

/// body(held) for a sparse operand of one of the formats, which decides the device of the call;
/// `kValues` says whether its values are read. Null where the device is not one of the backend's,
/// so this is the last thing that a binding does.
template <bool kValues, class... Formats, class Backend, class F>
py::object with_operand(Call<Backend>& call, const char* argument, py::handle object, F&& body) {
  py::object result;
  const auto tries = [&]<class Format>(std::type_identity<Format>) {
    if constexpr (Backend::kDevice == DeviceType::cpu && kOfGpus<Format>) {
      if (const Held<Format>* held = as<Format>(object)) {
        static_cast<void>(call.enter(argument, matrix_of(*held).device()));
        return true;
      }
    } else if constexpr (Backend::kDevice == DeviceType::cpu || !kOfCpus<Format>) {
      if (const Held<Format>* held = as<Format>(object)) {
        if (call.enter(argument, matrix_of(*held).device())) {
          if constexpr (kValues) require_plain_values(*held, call.where(argument));
          result = body(*held);
        }
        return true;
      }
    }
    return false;
  };
  if (!(tries(std::type_identity<Formats>()) || ...)) not_a_matrix(call.where(argument), object);
  return result;
}

/// The same for an operand whose values are read.
template <class... Formats, class Backend, class F>
py::object with_held(Call<Backend>& call, const char* argument, py::handle object, F&& body) {
  return with_operand<true, Formats...>(call, argument, object, body);
}

/// The same with body(matrix).
template <class... Formats, class Backend, class F>
py::object with_matrix(Call<Backend>& call, const char* argument, py::handle object, F&& body) {
  return with_held<Formats...>(call, argument, object,
                               [&](const auto& held) { return body(matrix_of(held)); });
}

/// The same for an operand whose values are not read.
template <class... Formats, class Backend, class F>
py::object with_pattern(Call<Backend>& call, const char* argument, py::handle object, F&& body) {
  return with_operand<false, Formats...>(call, argument, object,
                                         [&](const auto& held) { return body(matrix_of(held)); });
}

/// body(view) for a CSR with or without values, which decides the device of the call; `kValues`
/// says whether they are read. Null where the device is not one of the backend's, so this is the
/// last thing that a binding does.
template <bool kValues, class Backend, class F>
py::object with_any_csr(Call<Backend>& call, const char* argument, py::handle object, F&& body) {
  const auto run = [&](const PatternView& view) {
    if (!call.enter(argument, view.matrix.device())) return py::object();
    if (kValues && view.values) require_plain(view.like, call.where(argument));
    return py::object(body(view));
  };
  if (const CsrHandle* held = as<Csr>(object)) {
    return run({held->matrix, held->values.view(), held->values.array});
  }
  if (py::isinstance<PatternHandle>(object)) {
    const auto& held = py::cast<const PatternHandle&>(object);
    if (!held.values) return run({held.matrix, std::nullopt, held.indices.array});
    return run({held.matrix, held.values->view(), held.values->array});
  }
  not_a_matrix(call.where(argument), object);
}

}  // namespace gossamer::python
