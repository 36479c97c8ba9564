#include "patterns.h"

#include <cstdint>
#include <string>
#include <utility>

#include "gossamer/error.h"
#include "gossamer/patterns.h"
#include "output.h"
#include "select.h"

namespace gossamer::python {
namespace {

Shape shape_of(const TensorView& view) {
  Shape shape;
  for (int d = 0; d < view.rank; ++d) shape.push_back(view.shape[static_cast<std::size_t>(d)]);
  return shape;
}

/// One of several words for a value.
template <class Value, std::size_t N>
Value read_word(const char* op, const char* argument, const std::string& word,
                const std::pair<const char*, Value> (&values)[N]) {
  std::string names;
  for (std::size_t i = 0; i < N; ++i) {
    if (word == values[i].first) return values[i].second;
    names += std::string(i == 0 ? "'" : i + 1 == N ? " or '" : ", '") + values[i].first + "'";
  }
  throw ValueError(std::string(op) + ": " + argument + " is '" + word + "', expected " + names);
}

/// Imports a score, lets `fill` write a mask of its shape, and returns that.
template <class Fill>
py::object make_mask(const char* op, py::handle score, py::handle out, Fill&& fill) {
  const ScoreImport import(score, {op, "score"});
  check_score(import.score(), op);
  Output result(op, out, import.like(), shape_of(import.score().w), DType::boolean);
  {
    const py::gil_scoped_release unlocked;
    fill(import.score(), result.view());
  }
  return result.finish();
}

py::object nm_mask_binding(py::handle score, std::int64_t n, std::int64_t m, int axis,
                           const std::string& tie, const std::string& nan, const std::string& tail,
                           py::handle out) {
  constexpr const char* op = "nm_mask";
  const NmOptions options{
      .axis = axis,
      .tie = read_tie(op, tie),
      .nan = read_nan(op, nan),
      .tail = read_word<Tail>(op, "tail", tail,
                              {{"error", Tail::error}, {"keep", Tail::keep}, {"pad", Tail::pad}})};
  return make_mask(op, score, out, [&](const Score& s, const TensorView& mask) {
    nm_mask(s, n, m, options, mask);
  });
}

std::pair<std::int64_t, std::int64_t> check_nm_binding(py::handle x, std::int64_t n, std::int64_t m,
                                                       int axis) {
  const Import import = Import::to_read(x, {"check_nm", "x"});
  const py::gil_scoped_release unlocked;
  const NmViolations found = check_nm(import.view(), n, m, axis);
  return {found.count, found.first};
}

}  // namespace

void bind_patterns(py::module_& module) {
  module.def("nm_mask", &nm_mask_binding, py::arg("score"), py::arg("n"), py::arg("m"),
             py::arg("axis"), py::arg("tie"), py::arg("nan"), py::arg("tail"), py::arg("out"));
  module.def("check_nm", &check_nm_binding, py::arg("x"), py::arg("n"), py::arg("m"),
             py::arg("axis"));
}

}  // namespace gossamer::python
