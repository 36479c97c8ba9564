#pragma once

// What the bindings of layers with sparse activations share.

#include <pybind11/pybind11.h>

#include <optional>

#include "base/call.h"
#include "gossamer/activation.h"

namespace gossamer::python {

/// A threshold as it was given: a number, or an array of one a channel.
class GivenThreshold {
 public:
  template <class Backend>
  GivenThreshold(Call<Backend>& call, py::handle given) {
    const bool single = py::hasattr(given, "shape") && py::len(given.attr("shape")) == 0;
    if (py::hasattr(given, "__dlpack__") && !single) {
      channels_ = call.read(given, "threshold");
      threshold_.channels = channels_->view();
    } else {
      threshold_.value = read_number(call.where("threshold"), given);
    }
  }

  [[nodiscard]] const Threshold& get() const noexcept { return threshold_; }

 private:
  std::optional<Import> channels_;
  Threshold threshold_;
};

/// The shape of x, with `width` in place of its last extent.
inline Shape tokens_shape(const TensorView& x, std::int64_t width) {
  Shape shape;
  shape.append(x, 0, x.rank - 1);
  shape.push_back(width);
  return shape;
}

inline std::int64_t columns_of(const TensorView& matrix) {
  return matrix.rank == 2 ? matrix.shape[1] : 0;
}

}  // namespace gossamer::python
