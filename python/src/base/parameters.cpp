#include "base/parameters.h"

#include <string>

#include "gossamer/error.h"

namespace gossamer::python {
namespace {

/// What was given, in no more than a line: gossamer._numbers shows it so, too.
std::string shown(py::handle given) {
  constexpr std::size_t kLongest = 80;
  std::string text;
  try {
    if (py::hasattr(given, "shape") && py::len(given.attr("shape")) > 0) {
      return "an array of shape " + py::cast<std::string>(py::repr(py::tuple(given.attr("shape"))));
    }
    text = py::cast<std::string>(py::repr(given));
  } catch (const py::error_already_set&) {
    if (PyLong_Check(given.ptr()) != 0) return "beyond any size";  // of too many digits
    return std::string("a ") + Py_TYPE(given.ptr())->tp_name;
  }
  // Not within a character of several bytes.
  std::size_t end = std::min(text.size(), kLongest);
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) {
    --end;
  }
  return end < text.size() ? text.substr(0, end) + "…" : text;
}

[[noreturn]] void wrong_type(Where where, py::handle given, const char* expected) {
  throw TypeError(where.text() + " is " + shown(given) + ", expected " + expected);
}

[[noreturn]] void out_of_range(Where where, py::handle given, const std::string& expected) {
  throw ValueError(where.text() + " is " + shown(given) + ", expected " + expected);
}

py::object index_of(Where where, py::handle given) {
  PyObject* index = PyIndex_Check(given.ptr()) != 0 ? PyNumber_Index(given.ptr()) : nullptr;
  if (index == nullptr) {
    PyErr_Clear();  // a tensor of several elements, say
    wrong_type(where, given, "an integer");
  }
  return py::reinterpret_steal<py::object>(index);
}

std::string limit(std::int64_t bound) {
  if (bound == std::numeric_limits<std::int64_t>::min()) return "-2**63";
  if (bound == std::numeric_limits<std::int64_t>::max()) return "2**63 - 1";
  return std::to_string(bound);
}

}  // namespace

std::int64_t read_integer(Where where, py::handle given, std::int64_t low, std::int64_t high) {
  const py::object index = index_of(where, given);
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || value < low || value > high) {
    out_of_range(where, given, limit(low) + " to " + limit(high));
  }
  return value;
}

std::uint64_t read_unsigned(Where where, py::handle given) {
  const py::object index = index_of(where, given);
  const unsigned long long value = PyLong_AsUnsignedLongLong(index.ptr());
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    out_of_range(where, given, "0 to 2**64 - 1");
  }
  return value;
}

static std::vector<std::int64_t> read_integers(Where where, py::handle given,
                                               const char* expected) {
  const bool is_sequence = PySequence_Check(given.ptr()) != 0 && PyUnicode_Check(given.ptr()) == 0;
  PyObject* const listed = is_sequence ? PySequence_Fast(given.ptr(), "") : nullptr;
  if (listed == nullptr) {
    PyErr_Clear();  // an array of no axes or a sparse matrix, say
    wrong_type(where, given, expected);
  }
  std::vector<std::int64_t> numbers;
  for (const py::handle item : py::reinterpret_steal<py::object>(listed)) {
    if (PyIndex_Check(item.ptr()) == 0) wrong_type(where, given, expected);
    numbers.push_back(read_integer(where, item));
  }
  return numbers;
}

std::vector<std::int64_t> read_integers(Where where, py::handle given) {
  return read_integers(where, given, "a tuple of integers");
}

std::pair<std::int64_t, std::int64_t> read_pair(Where where, py::handle given) {
  const std::vector<std::int64_t> numbers = read_integers(where, given, "two integers");
  if (numbers.size() != 2) out_of_range(where, given, "two integers");
  return {numbers[0], numbers[1]};
}

double read_number(Where where, py::handle given) {
  const double number = PyFloat_AsDouble(given.ptr());
  if (number == -1.0 && PyErr_Occurred() != nullptr) {
    const bool beyond = PyErr_ExceptionMatches(PyExc_OverflowError) != 0;
    PyErr_Clear();
    if (beyond) out_of_range(where, given, "a number within float64");
    wrong_type(where, given, "a number");
  }
  return number;
}

std::string read_text(Where where, py::handle given) {
  Py_ssize_t size = 0;
  const char* text =
      PyUnicode_Check(given.ptr()) != 0 ? PyUnicode_AsUTF8AndSize(given.ptr(), &size) : nullptr;
  if (text == nullptr) {
    PyErr_Clear();
    wrong_type(where, given, "a string");
  }
  return {text, static_cast<std::size_t>(size)};
}

bool read_flag(Where where, py::handle given) {
  if (given.ptr() == Py_True) return true;
  if (given.ptr() == Py_False) return false;
  const PyNumberMethods* number = Py_TYPE(given.ptr())->tp_as_number;
  const int truth =
      number != nullptr && number->nb_bool != nullptr ? PyObject_IsTrue(given.ptr()) : -1;
  if (truth < 0) {
    PyErr_Clear();
    wrong_type(where, given, "True or False");
  }
  return truth != 0;
}

void bind_parameters(py::module_& module) {
  module.def(
      "key",
      [](const std::string& op, const std::string& argument, py::handle value) {
        return read_unsigned({op.c_str(), argument.c_str()}, value);
      },
      py::arg("op"), py::arg("argument"), py::arg("value"));
  module.def(
      "pair",
      [](const std::string& op, const std::string& argument, py::handle value) {
        return read_pair({op.c_str(), argument.c_str()}, value);
      },
      py::arg("op"), py::arg("argument"), py::arg("value"));
}

}  // namespace gossamer::python
