#include "prune/select.h"

#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "base/gil.h"
#include "base/output.h"
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

MaskFormat read_format(const char* op, const std::optional<std::string>& packed) {
  if (!packed) return MaskFormat::bytes;
  if (*packed == "little") return MaskFormat::little;
  if (*packed == "big") return MaskFormat::big;
  throw ValueError(std::string(op) + ": packed is '" + *packed +
                   "', expected None, 'little' or 'big'");
}

/// A mask in the framework of the score.
Output mask_output(const char* op, py::handle out, const ScoreImport& score, MaskFormat format) {
  const TensorView& w = score.score().w;
  if (format == MaskFormat::bytes) {
    return Output(op, out, score.like(), shape_of(w), DType::boolean);
  }
  return Output(op, out, score.like(), {(w.numel() + 7) / 8}, DType::u8);
}

SelectOptions read_options(const char* op, bool largest, const std::string& tie,
                           const std::string& nan, const std::optional<std::string>& packed) {
  return {.largest = largest,
          .tie = read_tie(op, tie),
          .nan = read_nan(op, nan),
          .format = read_format(op, packed),
          .op = op};
}

py::object score_array(const ScoreHandle& handle) {
  const ScoreImport import(py::cast(handle), {"score", "w"});
  const Score& score = import.score();
  check_score(score, "score");
  Output result("score", py::none(), import.like(), shape_of(score.w), dtype_of(score));
  {
    const GilRelease unlocked;
    evaluate(score, result.view());
  }
  return result.finish();
}

/// `within` and `outs` are None or hold an array or None for each score.
py::list topk_mask_list(const py::list& scores, std::int64_t k, bool largest,
                        const std::string& tie, const std::string& nan,
                        const std::optional<std::string>& packed,
                        const std::optional<py::list>& within, const py::list& outs) {
  constexpr const char* op = "topk_mask";
  const SelectOptions options = read_options(op, largest, tie, nan, packed);
  std::vector<ScoreImport> imports;
  std::vector<Score> views;
  std::vector<Flat> masks;
  std::vector<TensorView> mask_views, out_views;
  std::vector<Output> outputs;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    imports.emplace_back(scores[i], Where{op, "score"});
    views.push_back(imports.back().score());
    check_score(views.back(), op);
    if (within) {
      masks.emplace_back((*within)[i], Where{op, "within"});
      mask_views.push_back(masks.back().view());
    }
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    outputs.push_back(mask_output(op, outs[i], imports[i], options.format));
    out_views.push_back(outputs.back().view());
  }
  {
    const GilRelease unlocked;
    topk_mask(views, k, options, mask_views, out_views);
  }
  py::list results;
  for (Output& output : outputs) results.append(output.finish());
  return results;
}

/// One-dimensional, contiguous int64 numbers of the caller.
std::vector<std::int64_t> read_numbers(const py::handle& numbers, Where where) {
  const Import import = Import::to_read(numbers, where);
  const TensorView& view = import.view();
  if (view.dtype != DType::i64 || view.rank != 1 || !is_contiguous(view)) {
    throw TypeError(where.text() + " is not a contiguous array of int64 with one axis");
  }
  const auto* data = static_cast<const std::int64_t*>(view.data);
  return {data, data + view.shape[0]};
}

/// Segments of a length, or with the offsets [S + 1].
struct SegmentsImport {
  SegmentsImport(const char* op, const py::object& offsets, std::int64_t length) {
    segments.length = length;
    if (offsets.is_none()) return;
    numbers = read_numbers(offsets, {op, "offsets"});
    if (numbers.empty()) throw ValueError(std::string(op) + ": offsets is empty, expected [S + 1]");
    segments.offsets = numbers;
  }
  std::vector<std::int64_t> numbers;
  Segments segments;
};

py::object topk_mask_segments(py::handle score, py::handle k, std::int64_t length,
                              const py::object& offsets, bool largest, const std::string& tie,
                              const std::string& nan, const std::optional<std::string>& packed,
                              py::handle within, py::handle out) {
  constexpr const char* op = "topk_mask";
  const SelectOptions options = read_options(op, largest, tie, nan, packed);
  const ScoreImport import(score, {op, "score"});
  check_score(import.score(), op);
  const SegmentsImport segments(op, offsets, length);
  const std::vector<std::int64_t> counts = read_numbers(k, {op, "k"});
  const std::optional<Flat> mask = flat_optional(within, {op, "within"});
  Output result = mask_output(op, out, import, options.format);
  {
    const GilRelease unlocked;
    topk_mask(import.score(), segments.segments, counts, options, view_of(mask), result.view());
  }
  return result.finish();
}

std::int64_t count_nan_binding(py::handle score) {
  constexpr const char* op = "count_nan";
  const ScoreImport import(score, {op, "score"});
  check_score(import.score(), op);
  const GilRelease unlocked;
  return count_nan(import.score());
}

py::tuple kth_binding(py::handle score, std::int64_t k, bool largest, const std::string& nan) {
  constexpr const char* op = "kth";
  const SelectOptions options = read_options(op, largest, "low", nan, std::nullopt);
  const ScoreImport import(score, {op, "score"});
  Kth found;
  {
    const GilRelease unlocked;
    found = kth(import.score(), k, options);
  }
  return py::make_tuple(found.threshold, found.n_strict, found.n_tie);
}

py::tuple kth_pair_binding(py::handle score, std::int64_t k, bool largest, const std::string& nan) {
  constexpr const char* op = "kth";
  const SelectOptions options = read_options(op, largest, "low", nan, std::nullopt);
  const ScoreImport import(score, {op, "score"});
  std::array<double, 2> found = {};
  {
    const GilRelease unlocked;
    found = kth_pair(import.score(), k, options);
  }
  return py::make_tuple(found[0], found[1]);
}

py::tuple kth_segments(py::handle score, py::handle k, const py::object& offsets, bool largest,
                       const std::string& nan) {
  constexpr const char* op = "kth";
  const SelectOptions options = read_options(op, largest, "low", nan, std::nullopt);
  const ScoreImport import(score, {op, "score"});
  check_score(import.score(), op);
  const SegmentsImport segments(op, offsets, 1);
  const std::vector<std::int64_t> counts = read_numbers(k, {op, "k"});
  const auto n = static_cast<std::int64_t>(segments.numbers.size()) - 1;
  Output threshold({op, "threshold"}, import.like(), {n}, dtype_of(import.score()));
  Output strict({op, "n_strict"}, import.like(), {n}, DType::i64);
  Output tie({op, "n_tie"}, import.like(), {n}, DType::i64);
  {
    const GilRelease unlocked;
    kth(import.score(), segments.segments, counts, options, threshold.view(), strict.view(),
        tie.view());
  }
  return py::make_tuple(threshold.finish(), strict.finish(), tie.finish());
}

/// `shape` is None where the mask has the shape of `like`.
py::object random_mask_binding(py::handle like,
                               const std::optional<std::vector<std::int64_t>>& shape,
                               std::int64_t k, std::uint64_t seed, std::uint64_t step,
                               py::handle within, std::int64_t offset,
                               std::optional<std::int64_t> total, py::handle out) {
  constexpr const char* op = "random_mask";
  Shape extents;
  if (shape) {
    if (shape->size() > static_cast<std::size_t>(kMaxRank)) {
      throw ValueError(std::string(op) + ": shape has " + std::to_string(shape->size()) +
                       " axes, expected at most " + std::to_string(kMaxRank));
    }
    for (const std::int64_t extent : *shape) extents.push_back(extent);
  } else {
    extents = shape_of(Import::to_read(like, {op, "shape_or_like"}).view());
  }
  const std::optional<Flat> mask = flat_optional(within, {op, "within"});
  Output result(op, out, like, extents, DType::boolean);
  if (shape_of(result.view()) != extents) {
    throw ValueError(std::string(op) + ": out.shape is " + shape_string(result.view()) +
                     ", expected that of shape_or_like");
  }
  {
    const GilRelease unlocked;
    random_mask(k, seed, step, view_of(mask), result.view(), {.offset = offset, .total = total});
  }
  return result.finish();
}

py::tuple topk_rows_binding(py::handle x, std::int64_t k, py::handle key, const std::string& tie,
                            const std::string& nan, py::handle values_out, py::handle indices_out) {
  constexpr const char* op = "topk_rows";
  const SelectOptions options = read_options(op, true, tie, nan, std::nullopt);
  const Flat import(x, {op, "x"}, Flat::Keep::rows);
  const std::optional<Flat> keys = flat_optional(key, {op, "key"}, Flat::Keep::rows);
  const TensorView& view = import.view();
  if (view.rank != 2) {
    throw ValueError("topk_rows: x.ndim is " + std::to_string(view.rank) + ", expected 2");
  }
  if (k < 0 || k > view.shape[1]) {
    throw ValueError("topk_rows: k is " + std::to_string(k) + ", expected 0 to " +
                     std::to_string(view.shape[1]));
  }
  Output values({op, "out[0]"}, values_out, x, {view.shape[0], k}, view.dtype);
  Output indices({op, "out[1]"}, indices_out, x, {view.shape[0], k}, DType::i32);
  {
    const GilRelease unlocked;
    topk_rows(view, k, view_of(keys), options, values.view(), indices.view());
  }
  return py::make_tuple(values.finish(), indices.finish());
}

DType read_dtype(const char* op, const std::string& name) {
  for (const DType type : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    if (name == name_of(type)) return type;
  }
  throw TypeError(std::string(op) + ": dtype is '" + name +
                  "', expected 'float32', 'float64', 'float16' or 'bfloat16'");
}

/// Adds the counts of one score to counts [Selection.COUNTS] of int64.
void selection_histogram(const Selection& self, py::handle score, py::handle counts) {
  const ScoreImport import(score, {"Selection", "score"});
  const Import sums = Import::to_write(counts, {"Selection", "counts"});
  const TensorView& view = sums.view();
  if (view.dtype != DType::i64 || view.numel() != Selection::kCounts || !is_contiguous(view)) {
    throw ValueError("Selection: counts is not a contiguous array of 4096 int64");
  }
  const GilRelease unlocked;
  self.histogram(import.score(), {static_cast<std::int64_t*>(view.data), Selection::kCounts});
}

void selection_narrow(Selection& self, py::handle counts) {
  const std::vector<std::int64_t> sums = read_numbers(counts, {"Selection", "counts"});
  if (static_cast<std::int64_t>(sums.size()) != Selection::kCounts) {
    throw ValueError("Selection: counts.shape is (" + std::to_string(sums.size()) +
                     ",), expected (4096,)");
  }
  self.narrow(sums);
}

std::int64_t selection_ties(const Selection& self, py::handle score) {
  const ScoreImport import(score, {"Selection", "score"});
  const GilRelease unlocked;
  return self.ties(import.score());
}

py::object selection_emit(const Selection& self, py::handle score, std::int64_t ties_before) {
  const ScoreImport import(score, {"Selection", "score"});
  check_score(import.score(), "Selection");
  Output mask = mask_output("Selection", py::none(), import, MaskFormat::bytes);
  {
    const GilRelease unlocked;
    self.emit(import.score(), ties_before, mask.view());
  }
  return mask.finish();
}

}  // namespace

ScoreImport::ScoreImport(py::handle score, Where where, Flat::Keep keep) : like_(score) {
  score_.kind = ScoreKind::value;
  if (py::isinstance<ScoreHandle>(score)) {
    const auto& handle = score.cast<const ScoreHandle&>();
    like_ = handle.w;
    score_.kind = handle.kind;
    g_ = flat_optional(handle.g, {where.op, "g"}, keep);
    m_ = flat_optional(handle.m, {where.op, "m"}, keep);
    v_ = flat_optional(handle.v, {where.op, "v"}, keep);
    col_ = flat_optional(handle.col, {where.op, "col"}, keep);
    score_.alpha = handle.alpha;
    score_.beta = handle.beta;
    score_.eps = handle.eps;
    score_.scale = handle.scale;
    where.argument = "w";
  }
  w_.emplace(like_, where, keep);
  score_.w = w_->view();
  score_.g = view_of(g_);
  score_.m = view_of(m_);
  score_.v = view_of(v_);
  score_.col = view_of(col_);
}

Tie read_tie(const char* op, std::string_view tie) {
  if (tie == "low") return Tie::low;
  if (tie == "high") return Tie::high;
  throw ValueError(std::string(op) + ": tie is '" + std::string(tie) +
                   "', expected 'low' or 'high'");
}

Nan read_nan(const char* op, std::string_view nan) {
  if (nan == "lowest") return Nan::lowest;
  if (nan == "highest") return Nan::highest;
  if (nan == "error") return Nan::error;
  throw ValueError(std::string(op) + ": nan is '" + std::string(nan) +
                   "', expected 'lowest', 'highest' or 'error'");
}

void bind_select(py::module_& module) {
  py::class_<ScoreHandle>(module, "Score", py::is_final())
      .def(py::init([](py::object w, const std::string& kind, py::object g, py::object m,
                       py::object v, py::object col, double alpha, double beta, double eps,
                       double scale) {
             return ScoreHandle{
                 std::move(w),    std::move(g), std::move(m), std::move(v), std::move(col),
                 read_kind(kind), alpha,        beta,         eps,          scale};
           }),
           py::arg("w"), py::arg("kind"), py::arg("g"), py::arg("m"), py::arg("v"), py::arg("col"),
           py::arg("alpha"), py::arg("beta"), py::arg("eps"), py::arg("scale"))
      .def("check",
           [](const ScoreHandle& self) {
             const ScoreImport import(py::cast(self), {"score", "w"}, Flat::Keep::all);
             check_score(import.score(), "score");
             py::tuple shape(import.score().w.rank);
             for (std::size_t d = 0; d < shape.size(); ++d) shape[d] = import.score().w.shape[d];
             return py::make_tuple(shape, name_of(dtype_of(import.score())));
           })
      .def("array", &score_array);
  module.def("topk_mask_list", &topk_mask_list, py::arg("scores"), py::arg("k"), py::arg("largest"),
             py::arg("tie"), py::arg("nan"), py::arg("packed"), py::arg("within"), py::arg("outs"));
  module.def("topk_mask_segments", &topk_mask_segments, py::arg("score"), py::arg("k"),
             py::arg("length"), py::arg("offsets"), py::arg("largest"), py::arg("tie"),
             py::arg("nan"), py::arg("packed"), py::arg("within"), py::arg("out"));
  module.def("count_nan", &count_nan_binding, py::arg("score"));
  module.def("kth", &kth_binding, py::arg("score"), py::arg("k"), py::arg("largest"),
             py::arg("nan"));
  module.def("kth_pair", &kth_pair_binding, py::arg("score"), py::arg("k"), py::arg("largest"),
             py::arg("nan"));
  module.def("kth_segments", &kth_segments, py::arg("score"), py::arg("k"), py::arg("offsets"),
             py::arg("largest"), py::arg("nan"));
  module.def("random_mask", &random_mask_binding, py::arg("like"), py::arg("shape"), py::arg("k"),
             py::arg("seed"), py::arg("step"), py::arg("within"), py::arg("offset"),
             py::arg("total"), py::arg("out"));
  module.def("topk_rows", &topk_rows_binding, py::arg("x"), py::arg("k"), py::arg("key"),
             py::arg("tie"), py::arg("nan"), py::arg("values"), py::arg("indices"));
  py::class_<Selection>(module, "Selection", py::is_final())
      .def(py::init([](std::int64_t k, const std::string& dtype, bool largest,
                       const std::string& tie, const std::string& nan) {
             constexpr const char* op = "Selection";
             return Selection(k, read_dtype(op, dtype),
                              read_options(op, largest, tie, nan, std::nullopt));
           }),
           py::arg("k"), py::arg("dtype"), py::arg("largest"), py::arg("tie"), py::arg("nan"))
      .def("histogram", &selection_histogram, py::arg("score"), py::arg("counts"))
      .def("narrow", &selection_narrow, py::arg("counts"))
      .def("ties", &selection_ties, py::arg("score"))
      .def("emit", &selection_emit, py::arg("score"), py::arg("ties_before"))
      .def_property_readonly("done", &Selection::done)
      .def_property_readonly("threshold", &Selection::threshold);
}

}  // namespace gossamer::python
