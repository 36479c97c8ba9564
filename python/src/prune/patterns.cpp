#include "prune/patterns.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <string>

#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/cuda.h"
#include "gossamer/error.h"
#include "gossamer/prune/patterns.h"
#include "prune/score.h"
#include "prune/words.h"

namespace gossamer::python {
using namespace prune;
namespace {

// The one of CPUs is found by the types of its arguments.
using cuda::permutation_search;

template <class Backend>
py::tuple permutation_search_binding(Call<Backend>& call, py::handle w, std::int64_t n,
                                     std::int64_t m, const std::string& method,
                                     std::int64_t escapes, std::uint64_t seed, py::handle out) {
  const PermutationOptions options{
      .method = read_word<PermutationMethod>(call.op(), "method", method,
                                             {{"swap", PermutationMethod::swap},
                                              {"stripe8", PermutationMethod::stripe8},
                                              {"stripe12", PermutationMethod::stripe12}}),
      .escapes = escapes,
      .seed = seed};
  const ScoreOperand<Backend> import(call, "w", w);
  Score score = import.score();
  if (!py::isinstance<ScoreHandle>(w)) score.kind = ScoreKind::magnitude;
  Output perm = call.output(out, import.like(),
                            {score.w.rank == 2 ? score.w.shape[1] : std::int64_t{0}}, DType::i32);
  const auto workspace = call.workspace(
      import.like(),
      [](const auto&... operands) { return cuda::permutation_search_workspace(operands...); },
      score, m);
  const double sum = call.run(workspace, [&](const auto&... queue) {
    return permutation_search(score, n, m, options, perm.view(), queue...);
  });
  return py::make_tuple(perm.finish(), sum);
}

}  // namespace

template <class Backend>
void bind_patterns(py::module_& module) {
  define(module, "permutation_search", &permutation_search_binding<Backend>, py::arg("w"),
         py::arg("n"), py::arg("m"), py::arg("method"), py::arg("escapes"), py::arg("seed"),
         py::arg("out"));
}

template void bind_patterns<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
