#include "select.h"

#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "gossamer/error.h"
#include "output.h"

namespace gossamer::python {
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

Shape shape_of(const TensorView& view) {
  Shape shape;
  for (int d = 0; d < view.rank; ++d) shape.push_back(view.shape[static_cast<std::size_t>(d)]);
  return shape;
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
    const py::gil_scoped_release unlocked;
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
  std::vector<Import> masks;
  std::vector<TensorView> mask_views, out_views;
  std::vector<Output> outputs;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    imports.emplace_back(scores[i], Where{op, "score"});
    views.push_back(imports.back().score());
    check_score(views.back(), op);
    if (within) {
      masks.push_back(Import::to_read((*within)[i], {op, "within"}));
      mask_views.push_back(masks.back().view());
    }
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    outputs.push_back(mask_output(op, outs[i], imports[i], options.format));
    out_views.push_back(outputs.back().view());
  }
  {
    const py::gil_scoped_release unlocked;
    topk_mask(views, k, options, mask_views, out_views);
  }
  py::list results;
  for (Output& output : outputs) results.append(output.finish());
  return results;
}

}  // namespace

ScoreImport::ScoreImport(py::handle score, Where where) : like_(score) {
  score_.kind = ScoreKind::value;
  if (py::isinstance<ScoreHandle>(score)) {
    const auto& handle = score.cast<const ScoreHandle&>();
    like_ = handle.w;
    score_.kind = handle.kind;
    g_ = read_optional(handle.g, {where.op, "g"});
    m_ = read_optional(handle.m, {where.op, "m"});
    v_ = read_optional(handle.v, {where.op, "v"});
    col_ = read_optional(handle.col, {where.op, "col"});
    score_.alpha = handle.alpha;
    score_.beta = handle.beta;
    score_.eps = handle.eps;
    score_.scale = handle.scale;
    where.argument = "w";
  }
  w_ = Import::to_read(like_, where);
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
             const ScoreImport import(py::cast(self), {"score", "w"});
             check_score(import.score(), "score");
             py::tuple shape(import.score().w.rank);
             for (std::size_t d = 0; d < shape.size(); ++d) shape[d] = import.score().w.shape[d];
             return py::make_tuple(shape, name_of(dtype_of(import.score())));
           })
      .def("array", &score_array);
  module.def("topk_mask_list", &topk_mask_list, py::arg("scores"), py::arg("k"), py::arg("largest"),
             py::arg("tie"), py::arg("nan"), py::arg("packed"), py::arg("within"), py::arg("outs"));
}

}  // namespace gossamer::python
