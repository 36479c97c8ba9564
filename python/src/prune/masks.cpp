#include "prune/masks.h"

#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/cuda.h"
#include "gossamer/prune/patterns.h"
#include "gossamer/prune/select.h"
#include "prune/score.h"

namespace gossamer::python {
namespace {

// The operations of CPUs are found by the types of their arguments: those of GPUs take a workspace
// and a stream more.
using cuda::nm_mask, cuda::topk_mask;
using prune::MaskFormat, prune::NmOptions, prune::Score, prune::SelectOptions, prune::Tail;

/// `within` and `outs` are None or hold an array or None for each score.
template <class Backend>
py::list topk_mask_list(Call<Backend>& call, const py::list& scores, std::int64_t k, bool largest,
                        const std::string& tie, const std::string& nan,
                        const std::optional<std::string>& packed,
                        const std::optional<py::list>& within, const py::list& outs) {
  const SelectOptions options = read_options(call.op(), largest, tie, nan, packed);
  std::vector<ScoreOperand<Backend>> imports;
  std::vector<Score> views;
  std::vector<Contiguous<Backend>> masks;
  std::vector<TensorView> mask_views, out_views;
  std::vector<Output> outputs;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    imports.emplace_back(call, "score", scores[i]);
    views.push_back(imports.back().score());
    if (within) {
      masks.emplace_back(call, "within", (*within)[i], Flat::Keep::contiguous);
      mask_views.push_back(masks.back().view());
    }
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    outputs.push_back(mask_output(call, outs[i], imports[i], options.format));
    out_views.push_back(outputs.back().view());
  }
  const auto workspace = call.workspace(
      imports.empty() ? py::handle() : imports[0].like(),
      [](const std::vector<Score>& operands) { return cuda::topk_mask_workspace(operands); },
      views);
  call.run(workspace, [&](const auto&... queue) {
    topk_mask(views, k, options, mask_views, out_views, queue...);
  });
  py::list results;
  for (Output& output : outputs) results.append(output.finish());
  return results;
}

template <class Backend>
py::object topk_mask_segments(Call<Backend>& call, py::handle score, py::handle k,
                              std::int64_t length, const py::object& offsets, bool largest,
                              const std::string& tie, const std::string& nan,
                              const std::optional<std::string>& packed, py::handle within,
                              py::handle out) {
  const SelectOptions options = read_options(call.op(), largest, tie, nan, packed);
  const ScoreOperand<Backend> import(call, "score", score);
  const SegmentsImport segments(call.where("per"), offsets, length);
  const std::vector<std::int64_t> counts = read_numbers(k, call.where("k"));
  const std::optional<Contiguous<Backend>> mask = contiguous_optional(call, "within", within);
  Output result = mask_output(call, out, import, options.format);
  const auto workspace = call.workspace(
      import.like(),
      [](const Score& operand, MaskFormat format) {
        return cuda::topk_mask_workspace(operand, format);
      },
      import.score(), options.format);
  call.run(workspace, [&](const auto&... queue) {
    topk_mask(import.score(), segments.segments, counts, options, view_of(mask), result.view(),
              queue...);
  });
  return result.finish();
}

Tail read_tail(const char* op, const std::string& tail) {
  if (tail == "error") return Tail::error;
  if (tail == "keep") return Tail::keep;
  if (tail == "pad") return Tail::pad;
  throw ValueError(std::string(op) + ": tail is '" + tail + "', expected 'error', 'keep' or 'pad'");
}

template <class Backend>
py::object nm_mask_binding(Call<Backend>& call, py::handle score, std::int64_t n, std::int64_t m,
                           int axis, const std::string& tie, const std::string& nan,
                           const std::string& tail, py::handle out) {
  const NmOptions options{.axis = axis,
                          .tie = read_tie(call.op(), tie),
                          .nan = read_nan(call.op(), nan),
                          .tail = read_tail(call.op(), tail)};
  const ScoreOperand<Backend> import(call, "score", score);
  Output result = mask_output(call, out, import, MaskFormat::bytes);
  const auto workspace = call.workspace(
      import.like(), [](const NmOptions& given) { return cuda::nm_mask_workspace(given); },
      options);
  call.run(workspace, [&](const auto&... queue) {
    nm_mask(import.score(), n, m, options, result.view(), queue...);
  });
  return result.finish();
}

}  // namespace

template <class Backend>
void bind_masks(py::module_& module) {
  define(module, {"topk_mask_list", "topk_mask"}, &topk_mask_list<Backend>, py::arg("scores"),
         py::arg("k"), py::arg("largest"), py::arg("tie"), py::arg("nan"), py::arg("packed"),
         py::arg("within"), py::arg("outs"));
  define(module, {"topk_mask_segments", "topk_mask"}, &topk_mask_segments<Backend>,
         py::arg("score"), py::arg("k"), py::arg("per"), py::arg("offsets"), py::arg("largest"),
         py::arg("tie"), py::arg("nan"), py::arg("packed"), py::arg("within"), py::arg("out"));
  define(module, "nm_mask", &nm_mask_binding<Backend>, py::arg("score"), py::arg("n"), py::arg("m"),
         py::arg("axis"), py::arg("tie"), py::arg("nan"), py::arg("tail"), py::arg("out"));
}

template void bind_masks<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
