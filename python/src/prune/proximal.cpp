#include "prune/proximal.h"

#include <cstdint>
#include <string>

#include "base/call.h"
#include "gossamer/prune/proximal.h"

namespace gossamer::python {
using namespace prune;
namespace {

Groups groups_of(const std::string& kind, std::int64_t length) {
  if (kind == "row") return {.kind = Groups::Kind::rows};
  if (kind == "column") return {.kind = Groups::Kind::columns};
  return {.kind = Groups::Kind::runs, .length = length};
}

void group_soft_threshold_binding(Call<Cpu>& call, py::handle w, double threshold,
                                  const std::string& kind, std::int64_t length) {
  const Import import = call.write(w, "w");
  call.run([&] { group_soft_threshold_(import.view(), threshold, groups_of(kind, length)); });
}

void sef_prox_binding(Call<Cpu>& call, py::handle w, double lambda, double k,
                      const std::string& kind, std::int64_t length) {
  const Import import = call.write(w, "w");
  call.run([&] { sef_prox_(import.view(), lambda, k, groups_of(kind, length)); });
}

py::tuple polarization_binding(Call<Cpu>& call, py::handle gamma, double t, double alpha,
                               py::handle out) {
  const Import import = call.read(gamma, "gamma");
  Output grad = call.output(out, gamma, shape_of(import.view()), import.view().dtype);
  const double value = call.run([&] { return polarization(import.view(), t, alpha, grad.view()); });
  return py::make_tuple(value, grad.finish());
}

}  // namespace

void bind_proximal(py::module_& module) {
  define(module, "group_soft_threshold_", &group_soft_threshold_binding, py::arg("w"),
         py::arg("threshold"), py::arg("kind"), py::arg("per"));
  define(module, "sef_prox_", &sef_prox_binding, py::arg("w"), py::arg("lam"), py::arg("k"),
         py::arg("kind"), py::arg("per"));
  define(module, "polarization", &polarization_binding, py::arg("gamma"), py::arg("t"),
         py::arg("alpha"), py::arg("out"));
}

}  // namespace gossamer::python
