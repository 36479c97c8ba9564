#include "activation/activation.h"
#include "base/runtime.h"
#include "gossamer/detail/activation_checks.h"

namespace gossamer::cuda {
namespace {

std::int64_t tokens_of(const TensorView& x) {
  TensorView leading = x;
  leading.rank = x.rank - 1;
  return leading.numel();
}

}  // namespace

std::int64_t sparse_linear_workspace(const TensorView& x, const TensorView& wt) {
  if (x.rank < 1 || wt.rank != 2) return 0;
  Carver carver(nullptr);
  const ChannelRoom room(carver, tokens_of(x), wt.shape[0], wt.shape[1], x.dtype);
  return carver.used();
}

void sparse_linear(const TensorView& x, const TensorView& wt, const Threshold& threshold,
                   const TensorView& out, const Epilogue& epilogue, const TensorView& workspace,
                   Stream stream) {
  const detail::Checker check("sparse_linear", DeviceType::cuda);
  const detail::Tokens tokens = detail::check_sparse_linear(check, x, wt, threshold, out, epilogue);
  check.workspace(workspace, x.device, sparse_linear_workspace(x, wt));
  if (out.numel() == 0) return;
  const DeviceGuard guard(x.device);
  Carver carver(workspace.data);
  const ChannelRoom room(carver, tokens.from.shape[0], wt.shape[0], wt.shape[1], x.dtype);
  select_channels(tokens.from, threshold, room, stream);
  sum_rows(wt, room, tokens.to, epilogue, stream);
}

}  // namespace gossamer::cuda
