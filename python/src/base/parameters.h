#pragma once

// How the numbers and words of a call are read from what the caller gave. What is of the wrong kind
// is refused in the same words everywhere: "nm_mask: n is 2.0, expected an integer".

#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/hooks.h"

namespace gossamer::python {

/// An integer from `low` to `high`. Throws TypeError for what is none (floats are not, whatever
/// their value), ValueError for one out of range.
std::int64_t read_integer(Where where, py::handle given,
                          std::int64_t low = std::numeric_limits<std::int64_t>::min(),
                          std::int64_t high = std::numeric_limits<std::int64_t>::max());
/// An integer from 0 to 2**64 - 1.
std::uint64_t read_unsigned(Where where, py::handle given);
/// A tuple, list or array of integers.
std::vector<std::int64_t> read_integers(Where where, py::handle given);
/// Two of them.
std::pair<std::int64_t, std::int64_t> read_pair(Where where, py::handle given);
double read_number(Where where, py::handle given);
std::string read_text(Where where, py::handle given);
bool read_flag(Where where, py::handle given);

/// The type that a binding's parameter T has in the signature that pybind11 sees, and how it is
/// read. Arrays and classes are left as they are.
template <class T>
struct Parameter {
  using Given = T;
  static const T& read(Where /*where*/, const T& given) { return given; }
};

template <class T, T (*Read)(Where, py::handle)>
struct ReadParameter {
  using Given = py::handle;
  static T read(Where where, py::handle given) { return Read(where, given); }
};

template <>
struct Parameter<std::int64_t> {
  using Given = py::handle;
  static std::int64_t read(Where where, py::handle given) { return read_integer(where, given); }
};
template <>
struct Parameter<int> {
  using Given = py::handle;
  static int read(Where where, py::handle given) {
    return static_cast<int>(read_integer(where, given, std::numeric_limits<int>::min(),
                                         std::numeric_limits<int>::max()));
  }
};
template <>
struct Parameter<std::uint64_t> : ReadParameter<std::uint64_t, &read_unsigned> {};
template <>
struct Parameter<std::vector<std::int64_t>>
    : ReadParameter<std::vector<std::int64_t>, &read_integers> {};
template <>
struct Parameter<std::pair<std::int64_t, std::int64_t>>
    : ReadParameter<std::pair<std::int64_t, std::int64_t>, &read_pair> {};
template <>
struct Parameter<double> : ReadParameter<double, &read_number> {};
template <>
struct Parameter<std::string> : ReadParameter<std::string, &read_text> {};
template <>
struct Parameter<bool> : ReadParameter<bool, &read_flag> {};

/// Where T is read here, None stands for nothing.
template <class T>
  requires std::same_as<typename Parameter<T>::Given, py::handle>
struct Parameter<std::optional<T>> {
  using Given = py::handle;
  static std::optional<T> read(Where where, py::handle given) {
    if (given.is_none()) return std::nullopt;
    return Parameter<T>::read(where, given);
  }
};

/// How the parameters of a constructor are read, which has no Call.
template <class T>
T read_parameter(Where where, py::handle given) {
  return Parameter<T>::read(where, given);
}

/// Adds key(op, argument, value), an integer from 0 to 2**64 - 1, and pair(op, argument, value),
/// two integers, for the Python half.
void bind_parameters(py::module_& module);

}  // namespace gossamer::python
