#pragma once

// What the bindings of drop-and-grow share.

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "base/call.h"
#include "gossamer/error.h"
#include "gossamer/regrow.h"
#include "prune/score.h"

namespace gossamer::python {

inline regrow::RegrowOptions read_regrow_options(const char* op, const std::string& regrow,
                                                 const std::string& tie, const std::string& nan) {
  if (regrow != "allow" && regrow != "forbid") {
    throw ValueError(std::string(op) + ": regrow is '" + regrow +
                     "', expected 'allow' or 'forbid'");
  }
  return {.allow = regrow == "allow", .tie = read_tie(op, tie), .nan = read_nan(op, nan)};
}

/// Arrays that follow, with what keeps them and the arrays of their new values alive.
template <class Backend>
class FollowedArrays {
 public:
  explicit FollowedArrays(Call<Backend>& call) : call_(call) {}

  /// `initial` is a number or an array.
  void add(py::handle array, const char* name, const char* initial_name, py::handle initial,
           bool clears) {
    imports_.push_back(call_.write(array, name));
    regrow::Followed one{.array = imports_.back().view(), .clears = clears, .name = name};
    if (PyNumber_Check(initial.ptr()) != 0 && !py::hasattr(initial, "__dlpack__")) {
      one.value = py::cast<double>(py::float_(py::reinterpret_borrow<py::object>(initial)));
    } else {
      imports_.push_back(call_.read(initial, initial_name));
      one.source = imports_.back().view();
    }
    views_.push_back(one);
  }

  [[nodiscard]] const std::vector<regrow::Followed>& views() const noexcept { return views_; }

 private:
  Call<Backend>& call_;
  std::vector<Import> imports_;
  std::vector<regrow::Followed> views_;
};

}  // namespace gossamer::python
