#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <memory>
#include <optional>

#include "base/call.h"
#include "base/import.h"
#include "gossamer/tensor.h"

namespace gossamer::python {

/// An operand to read whose elements lie one after the other: one with other strides is copied for
/// as long as this lives. Made and destroyed under the GIL.
class Flat {
 public:
  /// Which operands are not copied: contiguous ones; also those whose last stride is 1 and none is
  /// negative; all, since only their shape is looked at.
  enum class Keep { contiguous, rows, all };
  Flat(Call<Cpu>& call, const char* argument, py::handle array, Keep keep = Keep::contiguous);

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }

 private:
  Import import_;
  std::unique_ptr<std::byte[]> copy_;
  TensorView view_;
};

/// Nothing for None.
std::optional<Flat> flat_optional(Call<Cpu>& call, const char* argument, py::handle array,
                                  Flat::Keep keep = Flat::Keep::contiguous);

/// The view inside, where there is one.
std::optional<TensorView> view_of(const std::optional<Flat>& import);

}  // namespace gossamer::python
