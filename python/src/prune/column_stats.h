#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/call.h"
#include "gossamer/error.h"
#include "gossamer/prune/layerwise.h"

namespace gossamer::python {

/// The state of ColumnStats: sums on the host, or an array on the GPU of the first rows, which is
/// replaced and never changed.
class Stats {
 public:
  /// Several threads may add at once: each sums its rows alone, and adds the sums while it has the
  /// interpreter's lock.
  void add(py::handle x);
  void merge(const Stats& other);

  [[nodiscard]] std::int64_t n() const { return n_; }
  /// Row `part` of sum, sumsq, m2; divided by n where that is asked for.
  [[nodiscard]] py::object array(int part, bool divided) const;

  [[nodiscard]] Device device() const { return device_; }
  /// On a CPU.
  [[nodiscard]] prune::ColumnStats view_of_state() const;
  /// On a GPU: float64 [3, C].
  [[nodiscard]] const py::object& there() const { return there_; }

 private:
  [[nodiscard]] std::string cols_text() const { return std::to_string(cols_); }
  [[nodiscard]] py::object on_its_gpu(const char* function) const;
  /// Adds what others have seen, of as many columns and on the same device.
  void take(const Stats& other);

  std::int64_t n_ = 0, cols_ = 0;
  std::vector<double> sums_;  // sum, sumsq, m2
  py::object there_;          // null on a CPU
  py::object like_;  // an array of the framework of the results; null until rows were added
  Device device_;
  DType dtype_ = DType::f32;
};

/// The state in the rows of an array [3, C], on a GPU.
inline prune::ColumnStats columns_of(const TensorView& array, std::int64_t n) {
  const auto row = [&](int i) {
    TensorView view = array;
    view.data = static_cast<double*>(array.data) + i * array.strides[0];
    view.rank = 1;
    view.shape[0] = array.shape[1];
    view.strides[0] = array.strides[1];
    return view;
  };
  return {.n = n, .sum = row(0), .sumsq = row(1), .m2 = row(2)};
}

}  // namespace gossamer::python
