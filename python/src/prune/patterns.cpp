#include "prune/patterns.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <string>

#include "base/call.h"
#include "gossamer/error.h"
#include "gossamer/prune/patterns.h"
#include "prune/select.h"
#include "prune/words.h"

namespace gossamer::python {
using namespace prune;
namespace {

/// Imports a score, lets `fill` write a mask of its shape, and returns that.
template <class Fill>
py::object make_mask(Call<Cpu>& call, py::handle score, py::handle out, Fill&& fill) {
  const ScoreImport import(call, "score", score);
  Output result = call.output(out, import.like(), shape_of(import.score().w), DType::boolean);
  call.run([&] { fill(import.score(), result.view()); });
  return result.finish();
}

py::object check_nm_binding(Call<Cpu>& call, py::handle x, std::int64_t n, std::int64_t m,
                            int axis) {
  const Flat import(call, "x", x);
  const NmViolations found = call.run([&] { return check_nm(import.view(), n, m, axis); });
  return py::make_tuple(found.count, found.first);
}

MaskMethod read_method(const char* op, const std::string& method) {
  return read_word<MaskMethod>(op, "method", method,
                               {{"exact", MaskMethod::exact}, {"greedy", MaskMethod::greedy}});
}

py::object transposable_binding(Call<Cpu>& call, py::handle score, std::int64_t n, std::int64_t m,
                                const std::string& method, py::handle out) {
  const MaskMethod how = read_method(call.op(), method);
  return make_mask(call, score, out, [&](const Score& s, const TensorView& mask) {
    nm_mask_transposable(s, n, m, how, mask);
  });
}

py::object vnm_mask_binding(Call<Cpu>& call, py::handle score, std::int64_t v, std::int64_t n,
                            std::int64_t m, const std::string& method, py::handle out) {
  const MaskMethod how = read_method(call.op(), method);
  return make_mask(call, score, out, [&](const Score& s, const TensorView& mask) {
    vnm_mask(s, v, n, m, how, mask);
  });
}

py::tuple permutation_search_binding(Call<Cpu>& call, py::handle w, std::int64_t n, std::int64_t m,
                                     const std::string& method, std::int64_t escapes,
                                     std::uint64_t seed, py::handle out) {
  const PermutationOptions options{
      .method = read_word<PermutationMethod>(call.op(), "method", method,
                                             {{"swap", PermutationMethod::swap},
                                              {"stripe8", PermutationMethod::stripe8},
                                              {"stripe12", PermutationMethod::stripe12}}),
      .escapes = escapes,
      .seed = seed};
  const ScoreImport import(call, "w", w);
  Score score = import.score();
  if (!py::isinstance<ScoreHandle>(w)) score.kind = ScoreKind::magnitude;
  Output perm = call.output(out, import.like(),
                            {score.w.rank == 2 ? score.w.shape[1] : std::int64_t{0}}, DType::i32);
  const double sum =
      call.run([&] { return permutation_search(score, n, m, options, perm.view()); });
  return py::make_tuple(perm.finish(), sum);
}

}  // namespace

void bind_patterns(py::module_& module) {
  define(module, "check_nm", &check_nm_binding, py::arg("x"), py::arg("n"), py::arg("m"),
         py::arg("axis"));
  define(module, "nm_mask_transposable", &transposable_binding, py::arg("score"), py::arg("n"),
         py::arg("m"), py::arg("method"), py::arg("out"));
  define(module, "vnm_mask", &vnm_mask_binding, py::arg("score"), py::arg("v"), py::arg("n"),
         py::arg("m"), py::arg("method"), py::arg("out"));
  define(module, "permutation_search", &permutation_search_binding, py::arg("w"), py::arg("n"),
         py::arg("m"), py::arg("method"), py::arg("escapes"), py::arg("seed"), py::arg("out"));
}

}  // namespace gossamer::python
