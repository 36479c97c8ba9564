// Layers that read the rows of large activations only, and of changes that are large.

#include <string>

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

struct StepRoom {
  StepRoom(Carver& carver, std::int64_t tokens, const TensorView& wt)
      : channels(carver, tokens, wt.shape[0], wt.shape[1], wt.dtype), anew(carver.take<int>(1)) {}

  ChannelRoom channels;
  int* anew;
};

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

std::int64_t delta_linear_workspace(const TensorView& x, const TensorView& wt) {
  if (x.rank < 1 || wt.rank != 2) return 0;
  Carver carver(nullptr);
  const StepRoom room(carver, tokens_of(x), wt);
  return carver.used();
}

void delta_linear(const TensorView& x, const TensorView& wt, const DeltaState& state,
                  const Threshold& threshold, const TensorView& out, const TensorView& sent,
                  bool refresh, const Epilogue& epilogue, const TensorView& workspace,
                  Stream stream) {
  const detail::Checker check("delta_linear", DeviceType::cuda);
  const detail::Tokens tokens =
      detail::check_delta_linear(check, x, wt, state, threshold, out, epilogue);
  const detail::Argument count{"sent", sent};
  check.rank(count, {0});
  if (sent.dtype != DType::i32) {
    check.type_error(std::string("sent.dtype is ") + name_of(sent.dtype) + ", expected int32");
  }
  check.device(count, x.device, "x");
  check.writable(count, {{"x", x}, {"wt", wt}, {"out", out}});
  check.writable(count, {{"state.last", state.last}, {"state.sums", state.sums}});
  check.workspace(workspace, x.device, delta_linear_workspace(x, wt));
  const DeviceGuard guard(x.device);
  Carver carver(workspace.data);
  const StepRoom room(carver, tokens.from.shape[0], wt);
  const Step step{.last = state.last.data,
                  .sums = state.sums.data,
                  .sent = static_cast<int*>(sent.data),
                  .anew = room.anew,
                  .refresh = refresh};
  select_channels(tokens.from, threshold, room.channels, stream, &step);
  if (out.numel() > 0) sum_rows(wt, room.channels, tokens.to, epilogue, stream, &step);
}

}  // namespace gossamer::cuda
