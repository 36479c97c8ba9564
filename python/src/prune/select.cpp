#include "prune/select.h"

#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "base/collected.h"
#include "gossamer/detail/score.h"
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
Output mask_output(Call<Cpu>& call, py::handle out, const ScoreImport& score, MaskFormat format) {
  const TensorView& w = score.score().w;
  if (format == MaskFormat::bytes) {
    return call.output(out, score.like(), shape_of(w), DType::boolean);
  }
  return call.output(out, score.like(), {(w.numel() + 7) / 8}, DType::u8);
}

SelectOptions read_options(const char* op, bool largest, const std::string& tie,
                           const std::string& nan, const std::optional<std::string>& packed) {
  return {.largest = largest,
          .tie = read_tie(op, tie),
          .nan = read_nan(op, nan),
          .format = read_format(op, packed)};
}

py::object score_array(const ScoreHandle& handle, py::handle out) {
  Call<Cpu> call("score");
  const ScoreImport import(call, "w", py::cast(handle));
  const Score& score = import.score();
  Output result = call.output(out, import.like(), shape_of(score.w), dtype_of(score));
  call.run([&] { evaluate(score, result.view()); });
  return result.finish();
}

/// `within` and `outs` are None or hold an array or None for each score.
py::list topk_mask_list(Call<Cpu>& call, const py::list& scores, std::int64_t k, bool largest,
                        const std::string& tie, const std::string& nan,
                        const std::optional<std::string>& packed,
                        const std::optional<py::list>& within, const py::list& outs) {
  const SelectOptions options = read_options(call.op(), largest, tie, nan, packed);
  std::vector<ScoreImport> imports;
  std::vector<Score> views;
  std::vector<Flat> masks;
  std::vector<TensorView> mask_views, out_views;
  std::vector<Output> outputs;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    imports.emplace_back(call, "score", scores[i]);
    views.push_back(imports.back().score());
    if (within) {
      masks.emplace_back(call, "within", (*within)[i]);
      mask_views.push_back(masks.back().view());
    }
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    outputs.push_back(mask_output(call, outs[i], imports[i], options.format));
    out_views.push_back(outputs.back().view());
  }
  call.run([&] { topk_mask(views, k, options, mask_views, out_views); });
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
  SegmentsImport(Call<Cpu>& call, const py::object& offsets, std::int64_t length) {
    segments.length = length;
    if (offsets.is_none()) return;
    numbers = read_numbers(offsets, call.where("per"));
    if (numbers.empty()) throw ValueError(call.where("per").text() + " is empty, expected [S + 1]");
    segments.offsets = numbers;
  }
  /// How many there are of n entries; where the operation will refuse them, any number.
  [[nodiscard]] std::int64_t count(std::int64_t n) const {
    if (!numbers.empty()) return static_cast<std::int64_t>(numbers.size()) - 1;
    return n == 0 || segments.length < 1 ? 0 : (n - 1) / segments.length + 1;
  }

  std::vector<std::int64_t> numbers;
  Segments segments;
};

py::object topk_mask_segments(Call<Cpu>& call, py::handle score, py::handle k, std::int64_t length,
                              const py::object& offsets, bool largest, const std::string& tie,
                              const std::string& nan, const std::optional<std::string>& packed,
                              py::handle within, py::handle out) {
  const SelectOptions options = read_options(call.op(), largest, tie, nan, packed);
  const ScoreImport import(call, "score", score);
  const SegmentsImport segments(call, offsets, length);
  const std::vector<std::int64_t> counts = read_numbers(k, call.where("k"));
  const std::optional<Flat> mask = flat_optional(call, "within", within);
  Output result = mask_output(call, out, import, options.format);
  call.run([&] {
    topk_mask(import.score(), segments.segments, counts, options, view_of(mask), result.view());
  });
  return result.finish();
}

std::int64_t count_nan_binding(Call<Cpu>& call, py::handle score) {
  const ScoreImport import(call, "score", score);
  return call.run([&] { return count_nan(import.score()); });
}

py::tuple kth_binding(Call<Cpu>& call, py::handle score, std::int64_t k, bool largest,
                      const std::string& nan) {
  const SelectOptions options = read_options(call.op(), largest, "low", nan, std::nullopt);
  const ScoreImport import(call, "score", score);
  Kth found;
  call.run([&] { found = kth(import.score(), k, options); });
  return py::make_tuple(found.threshold, found.n_strict, found.n_tie);
}

py::tuple kth_pair_binding(Call<Cpu>& call, py::handle score, std::int64_t k, bool largest,
                           const std::string& nan) {
  const SelectOptions options = read_options(call.op(), largest, "low", nan, std::nullopt);
  const ScoreImport import(call, "score", score);
  std::array<double, 2> found = {};
  call.run([&] { found = kth_pair(import.score(), k, options); });
  return py::make_tuple(found[0], found[1]);
}

py::tuple kth_segments(Call<Cpu>& call, py::handle score, py::handle k, std::int64_t length,
                       const py::object& offsets, bool largest, const std::string& nan,
                       py::handle threshold_out, py::handle strict_out, py::handle tie_out) {
  const SelectOptions options = read_options(call.op(), largest, "low", nan, std::nullopt);
  const ScoreImport import(call, "score", score);
  const Score& own = import.score();
  const SegmentsImport segments(call, offsets, length);
  const std::vector<std::int64_t> counts = read_numbers(k, call.where("k"));
  const std::int64_t n = segments.count(own.w.numel());
  Output threshold = call.output(threshold_out, import.like(), {n}, dtype_of(own), "out[0]");
  Output strict = call.output(strict_out, import.like(), {n}, DType::i64, "out[1]");
  Output tie = call.output(tie_out, import.like(), {n}, DType::i64, "out[2]");
  call.run([&] {
    kth(import.score(), segments.segments, counts, options, threshold.view(), strict.view(),
        tie.view());
  });
  return py::make_tuple(threshold.finish(), strict.finish(), tie.finish());
}

/// `shape` is None where the mask has the shape of `like`.
py::object random_mask_binding(Call<Cpu>& call, py::handle like,
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
  const std::optional<Flat> mask = flat_optional(call, "within", within);
  Output result = call.output(out, like, extents, DType::boolean);
  if (shape_of(result.view()) != extents) {
    throw ValueError(call.where("out").text() + ".shape is " + shape_string(result.view()) +
                     ", expected that of shape_or_like");
  }
  call.run([&] {
    random_mask(k, seed, step, view_of(mask), result.view(), {.offset = offset, .total = total});
  });
  return result.finish();
}

py::tuple topk_rows_binding(Call<Cpu>& call, py::handle x, std::int64_t k, py::handle key,
                            const std::string& tie, const std::string& nan, py::handle values_out,
                            py::handle indices_out) {
  const SelectOptions options = read_options(call.op(), true, tie, nan, std::nullopt);
  const Flat import(call, "x", x, Flat::Keep::rows);
  const std::optional<Flat> keys = flat_optional(call, "key", key, Flat::Keep::rows);
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
  call.run([&] { topk_rows(view, k, view_of(keys), options, values.view(), indices.view()); });
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
  Call<Cpu> call("Selection");
  const ScoreImport import(call, "score", score);
  const Import sums = call.write(counts, "counts");
  const Selection now = self;  // another thread may narrow it meanwhile
  const TensorView& view = sums.view();
  if (view.dtype != DType::i64 || view.numel() != Selection::kCounts || !is_contiguous(view)) {
    throw ValueError("Selection: counts is not a contiguous array of 4096 int64");
  }
  call.run([&] {
    now.histogram(import.score(), {static_cast<std::int64_t*>(view.data), Selection::kCounts});
  });
}

void selection_narrow(Selection& self, py::handle counts) {
  self.narrow(read_numbers(counts, {"Selection", "counts"}));
}

std::int64_t selection_ties(const Selection& self, py::handle score) {
  Call<Cpu> call("Selection");
  const ScoreImport import(call, "score", score);
  const Selection now = self;
  return call.run([&] { return now.ties(import.score()); });
}

py::object selection_emit(const Selection& self, py::handle score, py::handle ties_before,
                          py::handle out) {
  Call<Cpu> call("Selection");
  const std::int64_t before = read_integer(call.where("ties_before"), ties_before);
  const ScoreImport import(call, "score", score);
  Output mask = mask_output(call, out, import, MaskFormat::bytes);
  const Selection now = self;
  call.run([&] { now.emit(import.score(), before, mask.view()); });
  return mask.finish();
}

}  // namespace

ScoreImport::ScoreImport(Call<Cpu>& call, const char* argument, py::handle score, Flat::Keep keep)
    : like_(score) {
  score_.kind = ScoreKind::value;
  const auto* handle =
      py::isinstance<ScoreHandle>(score) ? &score.cast<const ScoreHandle&>() : nullptr;
  if (handle != nullptr) {
    like_ = handle->w;
    argument = "w";
  }
  w_.emplace(call, argument, like_, keep);
  score_.w = w_->view();
  if (handle == nullptr) return;
  g_ = flat_optional(call, "g", handle->g, keep);
  m_ = flat_optional(call, "m", handle->m, keep);
  v_ = flat_optional(call, "v", handle->v, keep);
  col_ = flat_optional(call, "col", handle->col, keep);
  score_.kind = handle->kind;
  score_.alpha = handle->alpha;
  score_.beta = handle->beta;
  score_.eps = handle->eps;
  score_.scale = handle->scale;
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
  py::class_<ScoreHandle>(module, "Score", py::is_final(), collected<ScoreHandle>())
      .def(py::init([](py::object w, py::handle kind, py::object g, py::object m, py::object v,
                       py::object col, py::handle alpha, py::handle beta, py::handle eps,
                       py::handle scale) {
             constexpr const char* op = "score";
             return ScoreHandle{.w = std::move(w),
                                .g = std::move(g),
                                .m = std::move(m),
                                .v = std::move(v),
                                .col = std::move(col),
                                .kind = read_kind(read_text({op, "kind"}, kind)),
                                .alpha = read_number({op, "alpha"}, alpha),
                                .beta = read_number({op, "beta"}, beta),
                                .eps = read_number({op, "eps"}, eps),
                                .scale = read_number({op, "scale"}, scale)};
           }),
           py::arg("w"), py::arg("kind"), py::arg("g"), py::arg("m"), py::arg("v"), py::arg("col"),
           py::arg("alpha"), py::arg("beta"), py::arg("eps"), py::arg("scale"))
      .def("check",
           [](const ScoreHandle& self) {
             Call<Cpu> call("score");
             const ScoreImport import(call, "w", py::cast(self), Flat::Keep::all);
             detail::check_score(detail::Checker(call.op()), import.score());
             py::tuple shape(import.score().w.rank);
             for (std::size_t d = 0; d < shape.size(); ++d) shape[d] = import.score().w.shape[d];
             return py::make_tuple(shape, name_of(dtype_of(import.score())));
           })
      .def("array", &score_array, py::arg("out"));
  define(module, {"topk_mask_list", "topk_mask"}, &topk_mask_list, py::arg("scores"), py::arg("k"),
         py::arg("largest"), py::arg("tie"), py::arg("nan"), py::arg("packed"), py::arg("within"),
         py::arg("outs"));
  define(module, {"topk_mask_segments", "topk_mask"}, &topk_mask_segments, py::arg("score"),
         py::arg("k"), py::arg("per"), py::arg("offsets"), py::arg("largest"), py::arg("tie"),
         py::arg("nan"), py::arg("packed"), py::arg("within"), py::arg("out"));
  define(module, "count_nan", &count_nan_binding, py::arg("score"));
  define(module, "kth", &kth_binding, py::arg("score"), py::arg("k"), py::arg("largest"),
         py::arg("nan"));
  define(module, {"kth_pair", "kth"}, &kth_pair_binding, py::arg("score"), py::arg("k"),
         py::arg("largest"), py::arg("nan"));
  define(module, {"kth_segments", "kth"}, &kth_segments, py::arg("score"), py::arg("k"),
         py::arg("per"), py::arg("offsets"), py::arg("largest"), py::arg("nan"),
         py::arg("threshold"), py::arg("n_strict"), py::arg("n_tie"));
  define(module, "random_mask", &random_mask_binding, py::arg("like"), py::arg("shape_or_like"),
         py::arg("k"), py::arg("seed"), py::arg("step"), py::arg("within"), py::arg("offset"),
         py::arg("total"), py::arg("out"));
  define(module, "topk_rows", &topk_rows_binding, py::arg("x"), py::arg("k"), py::arg("key"),
         py::arg("tie"), py::arg("nan"), py::arg("values"), py::arg("indices"));
  py::class_<Selection>(module, "Selection", py::is_final())
      .def(py::init([](py::handle k, py::handle dtype, py::handle largest, py::handle tie,
                       py::handle nan) {
             constexpr const char* op = "Selection";
             return Selection(
                 read_integer({op, "k"}, k), read_dtype(op, read_text({op, "dtype"}, dtype)),
                 read_options(op, read_flag({op, "largest"}, largest), read_text({op, "tie"}, tie),
                              read_text({op, "nan"}, nan), std::nullopt));
           }),
           py::arg("k"), py::arg("dtype"), py::arg("largest"), py::arg("tie"), py::arg("nan"))
      .def("histogram", &selection_histogram, py::arg("score"), py::arg("counts"))
      .def("narrow", &selection_narrow, py::arg("counts"))
      .def("ties", &selection_ties, py::arg("score"))
      .def("emit", &selection_emit, py::arg("score"), py::arg("ties_before"), py::arg("out"))
      .def_property_readonly("done", &Selection::done)
      .def_property_readonly("threshold", &Selection::threshold);
}

}  // namespace gossamer::python
