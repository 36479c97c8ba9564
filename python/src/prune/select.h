#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string_view>

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

/// An argument that is a score, or an array whose values are the score, with what keeps its arrays
/// alive. Made and destroyed under the GIL.
class ScoreImport {
 public:
  ScoreImport(Call<Cpu>& call, const char* argument, py::handle score,
              Flat::Keep keep = Flat::Keep::contiguous);

  [[nodiscard]] const prune::Score& score() const noexcept { return score_; }
  /// The array whose framework outputs are allocated in.
  [[nodiscard]] py::handle like() const noexcept { return like_; }

 private:
  py::handle like_;
  std::optional<Flat> w_, g_, m_, v_, col_;
  prune::Score score_;
};

prune::Tie read_tie(const char* op, std::string_view tie);
prune::Nan read_nan(const char* op, std::string_view nan);

void bind_select(py::module_& module);

}  // namespace gossamer::python
