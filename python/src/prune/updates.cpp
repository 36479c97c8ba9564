#include "prune/updates.h"

#include <cstdint>

#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/score.h"
#include "gossamer/prune/proximal.h"
#include "prune/score.h"

namespace gossamer::python {
namespace {

// The operations of CPUs are found by the types of their arguments, or named here: those of GPUs
// take a stream more.
using cuda::evaluate, cuda::l0_project_, cuda::shrink_, cuda::soft_threshold_, cuda::srste_grad_;
using prune::evaluate, prune::l0_project_, prune::shrink_, prune::soft_threshold_,
    prune::srste_grad_;

/// Shape and type of a score whose operands fit.
template <class Backend>
py::tuple score_check(Call<Backend>& call, py::handle score) {
  const ScoreOperand<Backend> import(call, "w", score, Flat::Keep::all);
  const prune::Score& own = import.score();
  detail::check_score(detail::Checker(call.op(), Backend::kDevice), own);
  py::tuple shape(own.w.rank);
  for (std::size_t d = 0; d < shape.size(); ++d) shape[d] = own.w.shape[d];
  return py::make_tuple(shape, name_of(dtype_of(own)));
}

template <class Backend>
py::object score_array(Call<Backend>& call, py::handle score, py::handle out) {
  const ScoreOperand<Backend> import(call, "w", score);
  const prune::Score& own = import.score();
  Output result = call.output(out, import.like(), shape_of(own.w), dtype_of(own));
  call.run([&](const auto&... queue) { evaluate(own, result.view(), queue...); });
  return result.finish();
}

template <class Backend>
void soft_threshold_binding(Call<Backend>& call, py::handle w, double threshold) {
  const Import import = call.write(w, "w");
  call.run([&](const auto&... queue) { soft_threshold_(import.view(), threshold, queue...); });
}

template <class Backend>
py::object l0_project_binding(Call<Backend>& call, py::handle w, std::int64_t k, py::handle out) {
  const Import import = call.write(w, "w");
  Output mask = call.output(out, w, shape_of(import.view()), DType::boolean);
  const auto workspace = call.workspace(
      w, [](const TensorView& view) { return cuda::l0_project_workspace(view); }, import.view());
  call.run(workspace,
           [&](const auto&... queue) { l0_project_(import.view(), k, mask.view(), queue...); });
  return mask.finish();
}

template <class Backend>
void shrink_binding(Call<Backend>& call, py::handle w, py::handle mask, double factor) {
  const Import import = call.write(w, "w");
  const Import mask_import = call.read(mask, "mask");
  call.run(
      [&](const auto&... queue) { shrink_(import.view(), mask_import.view(), factor, queue...); });
}

template <class Backend>
void srste_grad_binding(Call<Backend>& call, py::handle g, py::handle w, py::handle mask,
                        double decay) {
  const Import import = call.write(g, "g");
  const Import w_import = call.read(w, "w");
  const Import mask_import = call.read(mask, "mask");
  call.run([&](const auto&... queue) {
    srste_grad_(import.view(), w_import.view(), mask_import.view(), decay, queue...);
  });
}

}  // namespace

template <class Backend>
void bind_updates(py::module_& module) {
  define(module, {"score_check", "score"}, &score_check<Backend>, py::arg("score"));
  define(module, {"score_array", "score"}, &score_array<Backend>, py::arg("score"), py::arg("out"));
  define(module, "soft_threshold_", &soft_threshold_binding<Backend>, py::arg("w"),
         py::arg("threshold"));
  define(module, "l0_project_", &l0_project_binding<Backend>, py::arg("w"), py::arg("k"),
         py::arg("out"));
  define(module, "shrink_", &shrink_binding<Backend>, py::arg("w"), py::arg("mask"),
         py::arg("factor"));
  define(module, "srste_grad_", &srste_grad_binding<Backend>, py::arg("g"), py::arg("w"),
         py::arg("mask"), py::arg("decay"));
}

template void bind_updates<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
