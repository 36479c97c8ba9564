#include "jax/described.h"

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "gossamer/error.h"

namespace gossamer::python::ffi {
namespace {

namespace py = pybind11;

xla::DataType type_of(const char* op, std::string_view name) {
  using xla::DataType;
  constexpr std::array<std::pair<std::string_view, DataType>, 8> kTypes{{
      {"bool", DataType::pred},
      {"int32", DataType::s32},
      {"int64", DataType::s64},
      {"uint8", DataType::u8},
      {"float16", DataType::f16},
      {"float32", DataType::f32},
      {"float64", DataType::f64},
      {"bfloat16", DataType::bf16},
  }};
  for (const auto& [known, type] : kTypes) {
    if (known == name) return type;
  }
  throw TypeError(std::string(op) + ": an operand has the element type " + std::string(name) +
                  ", expected float32, float64, float16 or bfloat16, or int32, int64, uint8 for "
                  "indices");
}

/// Where the array of this number would lie: no other comes near.
void* address_of(std::size_t number) { return reinterpret_cast<void*>((number + 1) << 44); }

}  // namespace

Described::Described(const char* op, const py::sequence& operands, const py::sequence& results,
                     const py::dict& attributes)
    : frame_{} {
  for (const py::handle array : operands) add(op, array, operands_);
  for (const py::handle array : results) add(op, array, results_);
  for (const auto& [name, value] : attributes) {
    Attribute& attribute = attributes_.emplace_back();
    attribute.name = name.cast<std::string>();
    attribute.span = {attribute.name.data(), attribute.name.size()};
    if (py::isinstance<py::bool_>(value)) {
      attribute.number.flag = value.cast<bool>();
      attribute.scalar.dtype = xla::DataType::pred;
    } else if (py::isinstance<py::int_>(value)) {
      attribute.number.integer = value.cast<std::int64_t>();
      attribute.scalar.dtype = xla::DataType::s64;
    } else {
      attribute.number.real = value.cast<double>();
      attribute.scalar.dtype = xla::DataType::f64;
    }
    attribute.scalar.value = &attribute.number;
    names_.push_back(&attribute.span);
    types_.push_back(xla::AttrType::scalar);
    scalars_.push_back(&attribute.scalar);
  }
  frame_.struct_size = sizeof(frame_);
  frame_.stage = xla::Stage::execute;
  frame_.args.size = static_cast<std::int64_t>(operands_.size());
  frame_.args.args = operands_.data();
  frame_.rets.size = static_cast<std::int64_t>(results_.size());
  frame_.rets.rets = results_.data();
  frame_.attrs.size = static_cast<std::int64_t>(names_.size());
  frame_.attrs.types = types_.data();
  frame_.attrs.names = names_.data();
  frame_.attrs.attrs = scalars_.data();
}

void Described::add(const char* op, const py::handle& array, std::vector<void*>& list) {
  const auto [type, shape] = array.cast<std::pair<std::string, py::sequence>>();
  Array& added = arrays_.emplace_back();
  for (const py::handle n : shape) added.shape.push_back(n.cast<std::int64_t>());
  added.buffer = {.struct_size = sizeof(xla::Buffer),
                  .extension_start = nullptr,
                  .dtype = type_of(op, type),
                  .data = address_of(arrays_.size()),
                  .rank = static_cast<std::int64_t>(added.shape.size()),
                  .dims = added.shape.data()};
  list.push_back(&added.buffer);
}

}  // namespace gossamer::python::ffi
