#include "prune/patterns.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/call.h"
#include "gossamer/error.h"
#include "gossamer/prune/patterns.h"
#include "prune/select.h"

namespace gossamer::python {
using namespace prune;
namespace {

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

using Extents = std::pair<std::int64_t, std::int64_t>;

/// ⌈shape / block⌉; where the operation will refuse the arguments, anything.
Shape blocks_of(Extents shape, Extents block) {
  const auto divide = [](std::int64_t a, std::int64_t b) {
    return a < 1 || b < 1 ? 0 : (a - 1) / b + 1;
  };
  return {divide(shape.first, block.first), divide(shape.second, block.second)};
}

py::object block_pool_binding(Call<Cpu>& call, py::handle score, Extents block,
                              const std::string& reduce, py::handle out) {
  const auto how = read_word<Reduce>(
      call.op(), "reduce", reduce,
      {{"mean", Reduce::mean}, {"max", Reduce::max}, {"l1", Reduce::l1}, {"l2", Reduce::l2}});
  const ScoreImport import(call, "score", score);
  const TensorView& w = import.score().w;
  Output result = call.output(out, import.like(), blocks_of({w.shape[0], w.shape[1]}, block),
                              dtype_of(import.score()));
  call.run([&] {
    block_pool(import.score(), {.rows = block.first, .cols = block.second}, how, result.view());
  });
  return result.finish();
}

py::object expand_blocks_binding(Call<Cpu>& call, py::handle mask, Extents block, Extents shape,
                                 py::handle out) {
  const Flat import(call, "mask", mask);
  if (shape.first < 0 || shape.second < 0) {
    throw ValueError(call.where("shape").text() + " is (" + std::to_string(shape.first) + ", " +
                     std::to_string(shape.second) + "), expected no negative extent");
  }
  Output result = call.output(out, mask, {shape.first, shape.second}, DType::boolean);
  call.run([&] {
    expand_blocks(import.view(), {.rows = block.first, .cols = block.second}, result.view());
  });
  return result.finish();
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
  define(module, "block_pool", &block_pool_binding, py::arg("score"), py::arg("block"),
         py::arg("reduce"), py::arg("out"));
  define(module, "expand_blocks", &expand_blocks_binding, py::arg("mask"), py::arg("block"),
         py::arg("shape"), py::arg("out"));
  define(module, "permutation_search", &permutation_search_binding, py::arg("w"), py::arg("n"),
         py::arg("m"), py::arg("method"), py::arg("escapes"), py::arg("seed"), py::arg("out"));
}

}  // namespace gossamer::python
