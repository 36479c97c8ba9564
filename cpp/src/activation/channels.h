#pragma once

// Steps that the layers with sparse activations share.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "activation/kernels.h"
#include "base/scratch.h"
#include "gossamer/activation.h"
#include "gossamer/tensor.h"

namespace gossamer::detail {

/// A threshold as the kernels compare with it: its channels' in the type of the sums.
class Limits {
 public:
  Limits(const Threshold& threshold, bool f64);

  [[nodiscard]] double value() const noexcept { return value_; }
  /// Those of the channels from `first` on, or null.
  [[nodiscard]] const void* channels(std::int64_t first = 0) const noexcept;

 private:
  bool each_, f64_;
  double value_;
  Scratch channels_;
};

/// Weighted sums of rows of a matrix [·, cols]: Σ_i weights[t, i]·table[rows[i]] for tokens t.
struct WeightedRows {
  TensorView table;
  const std::int32_t* rows;
  std::int64_t count;
  const std::byte* weights;  // [tokens, count], of the type that sums are kept in
};

/// Tokens whose sums are computed at once.
inline constexpr std::int64_t kTokensAtOnce = 64;

/// Calls body(first, out's rows) for consecutive rows of out [tokens, ·], kTokensAtOnce at a time.
template <class F>
void for_tokens(const TensorView& out, F&& body) {
  for (std::int64_t token = 0; token < out.shape[0]; token += kTokensAtOnce) {
    TensorView rows = out;
    rows.shape[0] = std::min(kTokensAtOnce, out.shape[0] - token);
    rows.data = static_cast<std::byte*>(out.data) + token * out.strides[0] * size_of(out.dtype);
    body(token, rows);
  }
}

/// Columns [col, col + n) of what sum_weighted_rows computes, by the calling thread.
void sum_columns(const WeightedRows& weighted, const TensorView& out, const Epilogue& epilogue,
                 std::int64_t col, std::int64_t n, std::byte* kept = nullptr, bool add = false);

/// out [tokens, cols] = epilogue(sums), tokens ≤ kTokensAtOnce, cut by columns. Where `kept`
/// [tokens, cols] is given, the sums are kept there, added to what it holds with `add`.
void sum_weighted_rows(const WeightedRows& weighted, const TensorView& out,
                       const Epilogue& epilogue, std::byte* kept = nullptr, bool add = false);

/// Bytes of the type that sums are kept in.
inline std::int64_t real_size(DType dtype) noexcept { return dtype == DType::f64 ? 8 : 4; }

}  // namespace gossamer::detail
