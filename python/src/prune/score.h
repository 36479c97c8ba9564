#pragma once

// Scores and the options of selections, for the bindings of both backends.

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/call.h"
#include "base/flat.h"
#include "gossamer/prune/score.h"
#include "gossamer/prune/select.h"

namespace gossamer::python {

/// The arrays and numbers of a score, as the caller gave them.
struct ScoreHandle {
  template <class Visit>
  int objects(Visit&& visit) const {
    for (const py::object* array : {&w, &g, &m, &v, &col}) {
      if (const int result = visit(*array)) return result;
    }
    return 0;
  }

  py::object w, g, m, v, col;
  prune::ScoreKind kind;
  double alpha, beta, eps, scale;
};

/// An operand to read whose elements lie one after the other: on a CPU, another one is copied; on a
/// GPU, the operation refuses it.
template <class Backend>
class Contiguous {
 public:
  Contiguous(Call<Backend>& call, const char* argument, py::handle array, Flat::Keep keep)
      : array_(make(call, argument, array, keep)) {}

  [[nodiscard]] const TensorView& view() const noexcept { return array_.view(); }

 private:
  static constexpr bool kCopies = Backend::kDevice == DeviceType::cpu;
  using Array = std::conditional_t<kCopies, Flat, Import>;

  static Array make(Call<Backend>& call, const char* argument, py::handle array,
                    [[maybe_unused]] Flat::Keep keep) {
    if constexpr (kCopies) {
      return Flat(call, argument, array, keep);
    } else {
      return call.read(array, argument);
    }
  }

  Array array_;
};

template <class Backend>
std::optional<Contiguous<Backend>> contiguous_optional(Call<Backend>& call, const char* argument,
                                                       py::handle array,
                                                       Flat::Keep keep = Flat::Keep::contiguous) {
  if (array.is_none()) return std::nullopt;
  return std::optional<Contiguous<Backend>>(std::in_place, call, argument, array, keep);
}

template <class Backend>
std::optional<TensorView> view_of(const std::optional<Contiguous<Backend>>& array) {
  if (!array) return std::nullopt;
  return array->view();
}

/// An argument that is a score, or an array whose values are the score, with what keeps its arrays
/// alive. Made and destroyed under the GIL.
template <class Backend>
class ScoreOperand {
 public:
  ScoreOperand(Call<Backend>& call, const char* argument, py::handle score,
               Flat::Keep keep = Flat::Keep::contiguous)
      : like_(score) {
    score_.kind = prune::ScoreKind::value;
    const auto* handle =
        py::isinstance<ScoreHandle>(score) ? &score.cast<const ScoreHandle&>() : nullptr;
    if (handle != nullptr) {
      like_ = handle->w;
      argument = "w";
    }
    w_.emplace(call, argument, like_, keep);
    score_.w = w_->view();
    if (handle == nullptr) return;
    g_ = contiguous_optional(call, "g", handle->g, keep);
    m_ = contiguous_optional(call, "m", handle->m, keep);
    v_ = contiguous_optional(call, "v", handle->v, keep);
    col_ = contiguous_optional(call, "col", handle->col, keep);
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

  [[nodiscard]] const prune::Score& score() const noexcept { return score_; }
  /// The array whose framework outputs are allocated in.
  [[nodiscard]] py::handle like() const noexcept { return like_; }

 private:
  py::handle like_;
  std::optional<Contiguous<Backend>> w_, g_, m_, v_, col_;
  prune::Score score_;
};

prune::Tie read_tie(const char* op, std::string_view tie);
prune::Nan read_nan(const char* op, std::string_view nan);
prune::SelectOptions read_options(const char* op, bool largest, const std::string& tie,
                                  const std::string& nan, const std::optional<std::string>& packed);

/// A mask in the framework of the score.
template <class Backend>
Output mask_output(Call<Backend>& call, py::handle out, const ScoreOperand<Backend>& score,
                   prune::MaskFormat format) {
  const TensorView& w = score.score().w;
  if (format == prune::MaskFormat::bytes) {
    return call.output(out, score.like(), shape_of(w), DType::boolean);
  }
  return call.output(out, score.like(), {(w.numel() + 7) / 8}, DType::u8);
}

/// One-dimensional, contiguous int64 numbers of the caller, in host memory.
std::vector<std::int64_t> read_numbers(const py::handle& numbers, Where where);

/// Segments of a length, or with the offsets [S + 1].
struct SegmentsImport {
  SegmentsImport(Where where, const py::object& offsets, std::int64_t length);
  /// How many there are of n entries; where the operation will refuse them, any number.
  [[nodiscard]] std::int64_t count(std::int64_t n) const;

  std::vector<std::int64_t> numbers;
  prune::Segments segments;
};

}  // namespace gossamer::python
