#include "prune/proximal.h"

#include <cstdint>
#include <string>

#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/cuda.h"
#include "gossamer/prune/layerwise.h"
#include "gossamer/prune/proximal.h"

namespace gossamer::python {
namespace {

// The operations of CPUs are found by the types of their arguments, or named here: those of GPUs
// take a workspace and a stream more.
using cuda::cett_threshold, cuda::channel_threshold, cuda::group_soft_threshold_,
    cuda::polarization, cuda::sef_prox_;
using prune::cett_threshold, prune::channel_threshold, prune::group_soft_threshold_, prune::Groups,
    prune::polarization, prune::sef_prox_;

Groups groups_of(const std::string& kind, std::int64_t length) {
  if (kind == "row") return {.kind = Groups::Kind::rows};
  if (kind == "column") return {.kind = Groups::Kind::columns};
  return {.kind = Groups::Kind::runs, .length = length};
}

template <class Backend>
void group_soft_threshold_binding(Call<Backend>& call, py::handle w, double threshold,
                                  const std::string& kind, std::int64_t length) {
  const Import import = call.write(w, "w");
  const Groups groups = groups_of(kind, length);
  const auto workspace = call.workspace(
      w, [](const auto&... operands) { return cuda::group_soft_threshold_workspace(operands...); },
      import.view(), groups);
  call.run(workspace, [&](const auto&... queue) {
    group_soft_threshold_(import.view(), threshold, groups, queue...);
  });
}

template <class Backend>
void sef_prox_binding(Call<Backend>& call, py::handle w, double lambda, double k,
                      const std::string& kind, std::int64_t length) {
  const Import import = call.write(w, "w");
  const Groups groups = groups_of(kind, length);
  const auto workspace = call.workspace(
      w, [](const auto&... operands) { return cuda::sef_prox_workspace(operands...); },
      import.view(), groups);
  call.run(workspace,
           [&](const auto&... queue) { sef_prox_(import.view(), lambda, k, groups, queue...); });
}

template <class Backend>
py::tuple polarization_binding(Call<Backend>& call, py::handle gamma, double t, double alpha,
                               py::handle out) {
  const Import import = call.read(gamma, "gamma");
  Output grad = call.output(out, gamma, shape_of(import.view()), import.view().dtype);
  const auto workspace = call.workspace(gamma, [] { return cuda::kPolarizationWorkspace; });
  const double value = call.run(workspace, [&](const auto&... queue) {
    return polarization(import.view(), t, alpha, grad.view(), queue...);
  });
  return py::make_tuple(value, grad.finish());
}

template <class Backend>
py::object channel_threshold_binding(Call<Backend>& call, py::handle squares, double scale,
                                     py::handle out) {
  const Import import = call.read(squares, "squares");
  Output result = call.output(out, squares, shape_of(import.view()), DType::f32);
  call.run([&](const auto&... queue) {
    channel_threshold(import.view(), scale, result.view(), queue...);
  });
  return result.finish();
}

template <class Backend>
py::object cett_threshold_binding(Call<Backend>& call, py::handle w, double t, py::handle out) {
  const Import import = call.read(w, "w_out");
  Output result = call.output(out, w, {import.view().shape[1]}, DType::f32);
  const auto workspace = call.workspace(
      w, [](const TensorView& view) { return cuda::cett_threshold_workspace(view); },
      import.view());
  call.run(workspace, [&](const auto&... queue) {
    cett_threshold(import.view(), t, result.view(), queue...);
  });
  return result.finish();
}

}  // namespace

template <class Backend>
void bind_proximal(py::module_& module) {
  define(module, "group_soft_threshold_", &group_soft_threshold_binding<Backend>, py::arg("w"),
         py::arg("threshold"), py::arg("kind"), py::arg("per"));
  define(module, "sef_prox_", &sef_prox_binding<Backend>, py::arg("w"), py::arg("lam"),
         py::arg("k"), py::arg("kind"), py::arg("per"));
  define(module, "polarization", &polarization_binding<Backend>, py::arg("gamma"), py::arg("t"),
         py::arg("alpha"), py::arg("out"));
  define(module, "channel_threshold", &channel_threshold_binding<Backend>, py::arg("squares"),
         py::arg("scale"), py::arg("out"));
  define(module, "cett_threshold", &cett_threshold_binding<Backend>, py::arg("w"), py::arg("t"),
         py::arg("out"));
}

template void bind_proximal<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
