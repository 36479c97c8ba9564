#include "patterns.h"

#include <cstdint>
#include <utility>

#include "gossamer/patterns.h"
#include "output.h"

namespace gossamer::python {
namespace {

Score read_tmp(const Import& i) { return Score{.w = i.view(), .kind = ScoreKind::value}; }

Shape shape_of(const TensorView& view) {
  Shape shape;
  for (int d = 0; d < view.rank; ++d) shape.push_back(view.shape[static_cast<std::size_t>(d)]);
  return shape;
}

py::object nm_mask_binding(py::handle score, std::int64_t n, std::int64_t m, int axis, Tie tie,
                           Nan nan, Tail tail, py::handle out) {
  constexpr const char* op = "nm_mask";
  const Import import = Import::to_read(score, {op, "score"});
  const Score s = read_tmp(import);
  Output result(op, out, score, shape_of(s.w), DType::boolean);
  {
    const py::gil_scoped_release unlocked;
    nm_mask(s, n, m, {.axis = axis, .tie = tie, .nan = nan, .tail = tail}, result.view());
  }
  return result.finish();
}

std::pair<std::int64_t, std::int64_t> check_nm_binding(py::handle x, std::int64_t n,
                                                       std::int64_t m, int axis) {
  const Import import = Import::to_read(x, {"check_nm", "x"});
  const py::gil_scoped_release unlocked;
  const NmViolations found = check_nm(import.view(), n, m, axis);
  return {found.count, found.first};
}

}  // namespace

void bind_patterns(py::module_& module) {
  py::enum_<Tie>(module, "T").value("low", Tie::low).value("high", Tie::high);
  py::enum_<Nan>(module, "N").value("lowest", Nan::lowest).value("highest", Nan::highest).value("error", Nan::error);
  py::enum_<Tail>(module, "L").value("error", Tail::error).value("keep", Tail::keep).value("pad", Tail::pad);
  module.def("nm_mask", &nm_mask_binding, py::arg("score"), py::arg("n"), py::arg("m"),
             py::arg("axis"), py::arg("tie"), py::arg("nan"), py::arg("tail"), py::arg("out"));
  module.def("check_nm", &check_nm_binding, py::arg("x"), py::arg("n"), py::arg("m"),
             py::arg("axis"));
}

}  // namespace gossamer::python
