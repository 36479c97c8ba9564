#include <algorithm>
#include <cstddef>

#include "activation/channels.h"
#include "base/floats.h"
#include "base/token_rows.h"
#include "gossamer/activation.h"
#include "gossamer/detail/activation_checks.h"

namespace gossamer {
using namespace detail;

void sparse_linear(const TensorView& x, const TensorView& wt, const Threshold& threshold,
                   const TensorView& out, const Epilogue& epilogue) {
  const FloatEnvironment floats;
  const Tokens tokens =
      check_sparse_linear(Checker("sparse_linear"), x, wt, threshold, out, epilogue);
  if (out.numel() == 0) return;
  const RowsIn rows_of_x(tokens.from);
  const RowsOut result(tokens.to, epilogue.accumulate);
  const TensorView& from = rows_of_x.view();
  const Limits limits(threshold, x.dtype == DType::f64);
  const Scratch channels(from.shape[1] * 4);
  std::int64_t found = 0;
  activation_kernels().select_channels({.x = from.data,
                                        .type = from.dtype,
                                        .stride = from.strides[0],
                                        .tokens = from.shape[0],
                                        .count = from.shape[1],
                                        .last = nullptr,
                                        .threshold = limits.value(),
                                        .thresholds = limits.channels(),
                                        .channels = channels.as<std::int32_t>(),
                                        .found = &found});
  const std::int64_t at_once = std::min(kTokensAtOnce, from.shape[0]);
  const Scratch values(at_once * found * real_size(x.dtype));
  for_tokens(result.view(), [&](std::int64_t first, const TensorView& rows) {
    activation_kernels().gather_channels({.x = static_cast<const std::byte*>(from.data) +
                                               first * from.strides[0] * size_of(from.dtype),
                                          .type = from.dtype,
                                          .stride = from.strides[0],
                                          .tokens = rows.shape[0],
                                          .count = from.shape[1],
                                          .last = nullptr,
                                          .channels = channels.as<std::int32_t>(),
                                          .found = found,
                                          .values = values.data()});
    sum_weighted_rows({.table = wt,
                       .rows = channels.as<std::int32_t>(),
                       .count = found,
                       .weights = values.data()},
                      rows, epilogue);
  });
  result.write();
}

}  // namespace gossamer
