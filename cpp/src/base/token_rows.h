#pragma once

// Operands [..., width] whose leading axes do not form one in memory: ops that take them as
// matrices [tokens, width] copy them, once a call.

#include "base/scratch.h"
#include "gossamer/tensor.h"

namespace gossamer::detail {

/// Is the view a matrix? Else it has leading axes that do not form one (Checker::tokens).
[[nodiscard]] inline bool is_matrix(const TensorView& view) noexcept { return view.rank <= 2; }

/// What Checker::tokens gave, as a matrix to be read: a copy of what is none.
class RowsIn {
 public:
  explicit RowsIn(const TensorView& x);

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }

 private:
  Scratch copy_;
  TensorView view_;
};

/// The same to be written: memory of its own, which `write` copies to where it belongs. `keep`
/// tells that what the array holds is read, too.
class RowsOut {
 public:
  RowsOut(const TensorView& out, bool keep);

  [[nodiscard]] const TensorView& view() const noexcept { return view_; }
  void write() const;

 private:
  TensorView out_;
  Scratch copy_;
  TensorView view_;
};

}  // namespace gossamer::detail
