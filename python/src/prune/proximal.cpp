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

void soft_threshold_binding(Call<Cpu>& call, py::handle w, double threshold) {
  const Import import = call.write(w, "w");
  call.run([&] { soft_threshold_(import.view(), threshold); });
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

py::object l0_project_binding(Call<Cpu>& call, py::handle w, std::int64_t k, py::handle out) {
  const Import import = call.write(w, "w");
  Output mask = call.output(out, w, shape_of(import.view()), DType::boolean);
  call.run([&] { l0_project_(import.view(), k, mask.view()); });
  return mask.finish();
}

void shrink_binding(Call<Cpu>& call, py::handle w, py::handle mask, double factor) {
  const Import import = call.write(w, "w");
  const Import mask_import = call.read(mask, "mask");
  call.run([&] { shrink_(import.view(), mask_import.view(), factor); });
}

void srste_grad_binding(Call<Cpu>& call, py::handle g, py::handle w, py::handle mask,
                        double decay) {
  const Import import = call.write(g, "g");
  const Import w_import = call.read(w, "w");
  const Import mask_import = call.read(mask, "mask");
  call.run([&] { srste_grad_(import.view(), w_import.view(), mask_import.view(), decay); });
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
  define(module, "soft_threshold_", &soft_threshold_binding, py::arg("w"), py::arg("threshold"));
  define(module, "group_soft_threshold_", &group_soft_threshold_binding, py::arg("w"),
         py::arg("threshold"), py::arg("kind"), py::arg("per"));
  define(module, "sef_prox_", &sef_prox_binding, py::arg("w"), py::arg("lam"), py::arg("k"),
         py::arg("kind"), py::arg("per"));
  define(module, "l0_project_", &l0_project_binding, py::arg("w"), py::arg("k"), py::arg("out"));
  define(module, "shrink_", &shrink_binding, py::arg("w"), py::arg("mask"), py::arg("factor"));
  define(module, "srste_grad_", &srste_grad_binding, py::arg("g"), py::arg("w"), py::arg("mask"),
         py::arg("decay"));
  define(module, "polarization", &polarization_binding, py::arg("gamma"), py::arg("t"),
         py::arg("alpha"), py::arg("out"));
}

}  // namespace gossamer::python
