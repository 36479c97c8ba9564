#include "prune/masks.h"

#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/cuda.h"
#include "gossamer/prune/patterns.h"
#include "gossamer/prune/select.h"
#include "prune/score.h"
#include "prune/words.h"

namespace gossamer::python {
namespace {

// The operations of CPUs are found by the types of their arguments: those of GPUs take a workspace
// and a stream more.
using cuda::block_pool, cuda::count_nan, cuda::expand_blocks, cuda::kth, cuda::kth_pair,
    cuda::nm_mask, cuda::nm_mask_transposable, cuda::random_mask, cuda::topk_mask, cuda::topk_rows,
    cuda::vnm_mask;
using prune::BlockShape, prune::Kth, prune::MaskFormat, prune::MaskMethod, prune::NmOptions,
    prune::Part, prune::Reduce, prune::Score, prune::Selection, prune::SelectOptions, prune::Tail;

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

template <class Backend>
py::object transposable_binding(Call<Backend>& call, py::handle score, std::int64_t n,
                                std::int64_t m, const std::string& method, py::handle out) {
  const MaskMethod how = read_method(call.op(), method);
  const ScoreOperand<Backend> import(call, "score", score);
  Output result = mask_output(call, out, import, MaskFormat::bytes);
  call.run([&](const auto&... queue) {
    nm_mask_transposable(import.score(), n, m, how, result.view(), queue...);
  });
  return result.finish();
}

template <class Backend>
py::object vnm_mask_binding(Call<Backend>& call, py::handle score, std::int64_t v, std::int64_t n,
                            std::int64_t m, const std::string& method, py::handle out) {
  const MaskMethod how = read_method(call.op(), method);
  const ScoreOperand<Backend> import(call, "score", score);
  Output result = mask_output(call, out, import, MaskFormat::bytes);
  call.run([&](const auto&... queue) {
    vnm_mask(import.score(), v, n, m, how, result.view(), queue...);
  });
  return result.finish();
}

using Extents = std::pair<std::int64_t, std::int64_t>;

/// ⌈shape / block⌉; where the operation will refuse the arguments, anything.
Shape blocks_of(Extents shape, Extents block) {
  const auto divide = [](std::int64_t a, std::int64_t b) {
    return a < 1 || b < 1 ? 0 : (a - 1) / b + 1;
  };
  return {divide(shape.first, block.first), divide(shape.second, block.second)};
}

template <class Backend>
py::object block_pool_binding(Call<Backend>& call, py::handle score, Extents block,
                              const std::string& reduce, py::handle out) {
  const auto how = read_word<Reduce>(
      call.op(), "reduce", reduce,
      {{"mean", Reduce::mean}, {"max", Reduce::max}, {"l1", Reduce::l1}, {"l2", Reduce::l2}});
  const ScoreOperand<Backend> import(call, "score", score);
  const TensorView& w = import.score().w;
  Output result = call.output(out, import.like(), blocks_of({w.shape[0], w.shape[1]}, block),
                              dtype_of(import.score()));
  const BlockShape shape{.rows = block.first, .cols = block.second};
  call.run([&](const auto&... queue) {
    block_pool(import.score(), shape, how, result.view(), queue...);
  });
  return result.finish();
}

template <class Backend>
py::object expand_blocks_binding(Call<Backend>& call, py::handle mask, Extents block, Extents shape,
                                 py::handle out) {
  const Contiguous<Backend> import(call, "mask", mask, Flat::Keep::contiguous);
  if (shape.first < 0 || shape.second < 0) {
    throw ValueError(call.where("shape").text() + " is (" + std::to_string(shape.first) + ", " +
                     std::to_string(shape.second) + "), expected no negative extent");
  }
  Output result = call.output(out, mask, {shape.first, shape.second}, DType::boolean);
  const TensorView& made = result.view();  // the operation takes any shape that the blocks cover
  if (made.rank == 2 && (made.shape[0] != shape.first || made.shape[1] != shape.second)) {
    throw ValueError(call.where("out").text() + ".shape is (" + std::to_string(made.shape[0]) +
                     ", " + std::to_string(made.shape[1]) + "), expected (" +
                     std::to_string(shape.first) + ", " + std::to_string(shape.second) + ")");
  }
  const BlockShape own{.rows = block.first, .cols = block.second};
  call.run(
      [&](const auto&... queue) { expand_blocks(import.view(), own, result.view(), queue...); });
  return result.finish();
}

// A selection over several processes: the host has its state, each step what it knows at that time,
// since another thread may narrow it meanwhile.

/// Adds the counts of one score to counts [Selection::kCounts] of int64, on the host.
template <class Backend>
void selection_histogram_binding(Call<Backend>& call, const Selection& selection, py::handle score,
                                 py::handle counts) {
  const ScoreOperand<Backend> import(call, "score", score);
  const Import sums = Import::to_write(counts, call.where("counts"));
  const Selection now = selection;
  const TensorView& view = sums.view();
  if (view.dtype != DType::i64 || view.numel() != Selection::kCounts || !is_contiguous(view) ||
      view.device.type != DeviceType::cpu) {
    throw ValueError("Selection: counts is not a contiguous array of 4096 int64");
  }
  const std::span<std::int64_t> bins(static_cast<std::int64_t*>(view.data), Selection::kCounts);
  const auto workspace = call.workspace(import.like(), [] { return cuda::kSelectionWorkspace; });
  call.run(workspace, [&](const auto&... queue) {
    if constexpr (sizeof...(queue) == 0) {
      now.histogram(import.score(), bins);
    } else {
      cuda::selection_histogram(now, import.score(), bins, queue...);
    }
  });
}

template <class Backend>
std::int64_t selection_ties_binding(Call<Backend>& call, const Selection& selection,
                                    py::handle score) {
  const ScoreOperand<Backend> import(call, "score", score);
  const Selection now = selection;
  const auto workspace = call.workspace(import.like(), [] { return cuda::kSelectionWorkspace; });
  return call.run(workspace, [&](const auto&... queue) {
    if constexpr (sizeof...(queue) == 0) {
      return now.ties(import.score());
    } else {
      return cuda::selection_ties(now, import.score(), queue...);
    }
  });
}

template <class Backend>
py::object selection_emit_binding(Call<Backend>& call, const Selection& selection, py::handle score,
                                  std::int64_t ties_before, py::handle out) {
  const ScoreOperand<Backend> import(call, "score", score);
  Output mask = mask_output(call, out, import, MaskFormat::bytes);
  const Selection now = selection;
  const auto workspace = call.workspace(
      import.like(),
      [](const auto&... operands) { return cuda::selection_emit_workspace(operands...); }, now,
      import.score());
  call.run(workspace, [&](const auto&... queue) {
    if constexpr (sizeof...(queue) == 0) {
      now.emit(import.score(), ties_before, mask.view());
    } else {
      cuda::selection_emit(now, import.score(), ties_before, mask.view(), queue...);
    }
  });
  return mask.finish();
}

template <class Backend>
std::int64_t count_nan_binding(Call<Backend>& call, py::handle score) {
  const ScoreOperand<Backend> import(call, "score", score);
  const auto workspace = call.workspace(import.like(), [] { return cuda::kCountNanWorkspace; });
  return call.run(workspace,
                  [&](const auto&... queue) { return count_nan(import.score(), queue...); });
}

template <class Backend>
py::tuple kth_binding(Call<Backend>& call, py::handle score, std::int64_t k, bool largest,
                      const std::string& nan) {
  const SelectOptions options = read_options(call.op(), largest, "low", nan, std::nullopt);
  const ScoreOperand<Backend> import(call, "score", score);
  const auto workspace = call.workspace(
      import.like(), [](const Score& operand) { return cuda::kth_workspace(operand); },
      import.score());
  const Kth found = call.run(
      workspace, [&](const auto&... queue) { return kth(import.score(), k, options, queue...); });
  return py::make_tuple(found.threshold, found.n_strict, found.n_tie);
}

template <class Backend>
py::tuple kth_segments(Call<Backend>& call, py::handle score, py::handle k, std::int64_t length,
                       const py::object& offsets, bool largest, const std::string& nan,
                       py::handle threshold_out, py::handle strict_out, py::handle tie_out) {
  const SelectOptions options = read_options(call.op(), largest, "low", nan, std::nullopt);
  const ScoreOperand<Backend> import(call, "score", score);
  const Score& own = import.score();
  const SegmentsImport segments(call.where("per"), offsets, length);
  const std::vector<std::int64_t> counts = read_numbers(k, call.where("k"));
  const std::int64_t n = segments.count(own.w.numel());
  Output threshold = call.output(threshold_out, import.like(), {n}, dtype_of(own), "out[0]");
  Output strict = call.output(strict_out, import.like(), {n}, DType::i64, "out[1]");
  Output tie = call.output(tie_out, import.like(), {n}, DType::i64, "out[2]");
  const auto workspace = call.workspace(
      import.like(), [](const Score& operand) { return cuda::kth_segments_workspace(operand); },
      own);
  call.run(workspace, [&](const auto&... queue) {
    kth(own, segments.segments, counts, options, threshold.view(), strict.view(), tie.view(),
        queue...);
  });
  return py::make_tuple(threshold.finish(), strict.finish(), tie.finish());
}

template <class Backend>
py::tuple kth_pair_binding(Call<Backend>& call, py::handle score, std::int64_t k, bool largest,
                           const std::string& nan) {
  const SelectOptions options = read_options(call.op(), largest, "low", nan, std::nullopt);
  const ScoreOperand<Backend> import(call, "score", score);
  const auto workspace = call.workspace(
      import.like(), [](const Score& operand) { return cuda::kth_workspace(operand); },
      import.score());
  const std::array<double, 2> found = call.run(workspace, [&](const auto&... queue) {
    return kth_pair(import.score(), k, options, queue...);
  });
  return py::make_tuple(found[0], found[1]);
}

/// `shape` is None where the mask has the shape of `like`.
template <class Backend>
py::object random_mask_binding(Call<Backend>& call, py::handle like,
                               const std::optional<std::vector<std::int64_t>>& shape,
                               std::int64_t k, std::uint64_t seed, std::uint64_t step,
                               py::handle within, std::int64_t offset,
                               std::optional<std::int64_t> total, py::handle out) {
  Shape extents;
  if (shape) {
    if (shape->size() > static_cast<std::size_t>(kMaxRank)) {
      throw ValueError(call.where("shape_or_like").text() + " has " +
                       std::to_string(shape->size()) + " axes, expected at most " +
                       std::to_string(kMaxRank));
    }
    for (const std::int64_t extent : *shape) {
      if (extent < 0) {
        throw ValueError(call.where("shape_or_like").text() + " has extent " +
                         std::to_string(extent) + ", expected none below 0");
      }
      extents.push_back(extent);
    }
  } else {
    extents = shape_of(call.read(like, "shape_or_like").view());
  }
  const std::optional<Contiguous<Backend>> mask = contiguous_optional(call, "within", within);
  if (!out.is_none()) call.follow(out, "out");
  Output result = call.output(out, like, extents, DType::boolean);
  if (shape_of(result.view()) != extents) {
    throw ValueError(call.where("out").text() + ".shape is " + shape_string(result.view()) +
                     ", expected that of shape_or_like");
  }
  const Part part{.offset = offset, .total = total};
  const auto workspace = call.workspace(
      out.is_none() ? like : out,
      [](const auto&... operands) { return cuda::random_mask_workspace(operands...); },
      result.view(), part);
  call.run(workspace, [&](const auto&... queue) {
    random_mask(k, seed, step, view_of(mask), result.view(), part, queue...);
  });
  return result.finish();
}

template <class Backend>
py::tuple topk_rows_binding(Call<Backend>& call, py::handle x, std::int64_t k, py::handle key,
                            const std::string& tie, const std::string& nan, py::handle values_out,
                            py::handle indices_out) {
  const SelectOptions options = read_options(call.op(), true, tie, nan, std::nullopt);
  const Contiguous<Backend> import(call, "x", x, Flat::Keep::rows);
  const std::optional<Contiguous<Backend>> keys =
      contiguous_optional(call, "key", key, Flat::Keep::rows);
  const TensorView& view = import.view();
  if (view.rank != 2) {
    throw ValueError("topk_rows: x.ndim is " + std::to_string(view.rank) + ", expected 2");
  }
  if (k < 0 || k > view.shape[1]) {
    throw ValueError("topk_rows: k is " + std::to_string(k) + ", expected 0 to " +
                     std::to_string(view.shape[1]));
  }
  Output values = call.output(values_out, x, {view.shape[0], k}, view.dtype, "out[0]");
  Output indices = call.output(indices_out, x, {view.shape[0], k}, DType::i32, "out[1]");
  const auto workspace = call.workspace(
      x, [](const auto&... operands) { return cuda::topk_rows_workspace(operands...); }, view,
      view_of(keys));
  call.run(workspace, [&](const auto&... queue) {
    topk_rows(view, k, view_of(keys), options, values.view(), indices.view(), queue...);
  });
  return py::make_tuple(values.finish(), indices.finish());
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
  define(module, "nm_mask_transposable", &transposable_binding<Backend>, py::arg("score"),
         py::arg("n"), py::arg("m"), py::arg("method"), py::arg("out"));
  define(module, "vnm_mask", &vnm_mask_binding<Backend>, py::arg("score"), py::arg("v"),
         py::arg("n"), py::arg("m"), py::arg("method"), py::arg("out"));
  define(module, "block_pool", &block_pool_binding<Backend>, py::arg("score"), py::arg("block"),
         py::arg("reduce"), py::arg("out"));
  define(module, "expand_blocks", &expand_blocks_binding<Backend>, py::arg("mask"),
         py::arg("block"), py::arg("shape"), py::arg("out"));
  define(module, {"selection_histogram", "Selection"}, &selection_histogram_binding<Backend>,
         py::arg("selection"), py::arg("score"), py::arg("counts"));
  define(module, {"selection_ties", "Selection"}, &selection_ties_binding<Backend>,
         py::arg("selection"), py::arg("score"));
  define(module, {"selection_emit", "Selection"}, &selection_emit_binding<Backend>,
         py::arg("selection"), py::arg("score"), py::arg("ties_before"), py::arg("out"));
  define(module, "count_nan", &count_nan_binding<Backend>, py::arg("score"));
  define(module, "kth", &kth_binding<Backend>, py::arg("score"), py::arg("k"), py::arg("largest"),
         py::arg("nan"));
  define(module, {"kth_segments", "kth"}, &kth_segments<Backend>, py::arg("score"), py::arg("k"),
         py::arg("per"), py::arg("offsets"), py::arg("largest"), py::arg("nan"),
         py::arg("threshold"), py::arg("n_strict"), py::arg("n_tie"));
  define(module, {"kth_pair", "kth"}, &kth_pair_binding<Backend>, py::arg("score"), py::arg("k"),
         py::arg("largest"), py::arg("nan"));
  define(module, "random_mask", &random_mask_binding<Backend>, py::arg("like"),
         py::arg("shape_or_like"), py::arg("k"), py::arg("seed"), py::arg("step"),
         py::arg("within"), py::arg("offset"), py::arg("total"), py::arg("out"));
  define(module, "topk_rows", &topk_rows_binding<Backend>, py::arg("x"), py::arg("k"),
         py::arg("key"), py::arg("tie"), py::arg("nan"), py::arg("values"), py::arg("indices"));
}

template void bind_masks<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
