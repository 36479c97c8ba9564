#include "prune/select.h"

#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "base/collected.h"
#include "gossamer/detail/score.h"
#include "gossamer/error.h"

namespace gossamer::python {
using namespace prune;
namespace {

constexpr const char* kKinds[] = {"value", "magnitude", "snip", "taylor2", "signed", "wanda",
                                  "obs",   "adam",      "sum3", "zo",      "snr_abs"};

ScoreKind read_kind(const std::string& kind) {
  std::string names;
  for (std::size_t i = 0; i < std::size(kKinds); ++i) {
    if (kind == kKinds[i]) return static_cast<ScoreKind>(i);
    names += std::string(i == 0                       ? "'"
                         : i + 1 == std::size(kKinds) ? " or '"
                                                      : ", '") +
             kKinds[i] + "'";
  }
  throw ValueError("score: kind is '" + kind + "', expected " + names);
}

DType read_dtype(const char* op, const std::string& name) {
  for (const DType type : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    if (name == name_of(type)) return type;
  }
  throw TypeError(std::string(op) + ": dtype is '" + name +
                  "', expected 'float32', 'float64', 'float16' or 'bfloat16'");
}

void selection_narrow(Selection& self, py::handle counts) {
  self.narrow(read_numbers(counts, {"Selection", "counts"}));
}

}  // namespace

void bind_select(py::module_& module) {
  py::class_<ScoreHandle>(module, "Score", py::is_final(), collected<ScoreHandle>())
      .def(py::init([](py::object w, py::handle kind, py::object g, py::object m, py::object v,
                       py::object col, py::handle alpha, py::handle beta, py::handle eps,
                       py::handle scale) {
             constexpr const char* op = "score";
             return ScoreHandle{.w = std::move(w),
                                .g = std::move(g),
                                .m = std::move(m),
                                .v = std::move(v),
                                .col = std::move(col),
                                .kind = read_kind(read_text({op, "kind"}, kind)),
                                .alpha = read_number({op, "alpha"}, alpha),
                                .beta = read_number({op, "beta"}, beta),
                                .eps = read_number({op, "eps"}, eps),
                                .scale = read_number({op, "scale"}, scale)};
           }),
           py::arg("w"), py::arg("kind"), py::arg("g"), py::arg("m"), py::arg("v"), py::arg("col"),
           py::arg("alpha"), py::arg("beta"), py::arg("eps"), py::arg("scale"));
  py::class_<Selection>(module, "Selection", py::is_final())
      .def(py::init([](py::handle k, py::handle dtype, py::handle largest, py::handle tie,
                       py::handle nan) {
             constexpr const char* op = "Selection";
             return Selection(
                 read_integer({op, "k"}, k), read_dtype(op, read_text({op, "dtype"}, dtype)),
                 read_options(op, read_flag({op, "largest"}, largest), read_text({op, "tie"}, tie),
                              read_text({op, "nan"}, nan), std::nullopt));
           }),
           py::arg("k"), py::arg("dtype"), py::arg("largest"), py::arg("tie"), py::arg("nan"))
      .def("narrow", &selection_narrow, py::arg("counts"))
      .def_property_readonly("done", &Selection::done)
      .def_property_readonly("threshold", &Selection::threshold);
}

}  // namespace gossamer::python
