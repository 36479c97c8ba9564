#include "activation/activation.h"
#include "activation/kernels/activation_dot.cuh"
#include "base/launch.h"
#include "base/runtime.h"
#include "gossamer/detail/activation_checks.h"

namespace gossamer::cuda {
namespace {

constexpr int kTokens = 4;  // that a warp has sums for

struct Room {
  Room(Carver& carver, std::int64_t tokens, std::int64_t hidden, std::int64_t width, DType dtype)
      : channels(carver, tokens, hidden, width, dtype),
        gates(
            make_view(carver.take_bytes(
                          make_view(static_cast<void*>(nullptr), dtype, {tokens, hidden}).numel() *
                          sum_size(dtype)),
                      dtype == DType::f64 ? DType::f64 : DType::f32, {tokens, hidden})) {}

  ChannelRoom channels;
  TensorView gates;  // [tokens, hidden] of the type of sums
};

template <class T>
void multiply(const TensorView& w, const TensorView& x, const ChannelRoom* listed, void* dots,
              const GatedMlpOptions& options, Stream stream) {
  const detail::Product activation{.b = {},
                                   .out = {},
                                   .m = 0,
                                   .k = 0,
                                   .n = 0,
                                   .activation = options.activation,
                                   .lo = options.lo,
                                   .hi = options.hi};
  const std::int64_t item = size_of(w.dtype);
  const ActivationDotArgs<T> args{
      .table = static_cast<const T*>(w.data),
      .stride = row_stride(w),
      .depth = w.shape[1],
      .rows = listed != nullptr ? listed->channels : nullptr,
      .found = listed != nullptr ? listed->found : nullptr,
      .count = w.shape[0],
      .x = static_cast<const T*>(x.data),
      .x_stride = row_stride(x),
      .tokens = x.shape[0],
      .wide = aligned(w.data, row_stride(w), item, 16) && aligned(x.data, row_stride(x), item, 16),
      .dots = static_cast<Sum<T>*>(dots),
      .ld = w.shape[0],
      .multiply = listed != nullptr,
      .finish = Finish<T>(activation)};
  const unsigned blocks = grid_x(ceil_div(w.shape[0], kDotThreads / 32));
  if (x.shape[0] == 1) {
    launch(activation_dot<T, 1>, dim3(blocks), dim3(kDotThreads), 0, stream, args);
  } else {
    launch(activation_dot<T, kTokens>, dim3(blocks, grid_y(ceil_div(x.shape[0], kTokens))),
           dim3(kDotThreads), 0, stream, args);
  }
}

}  // namespace

std::int64_t gated_mlp_workspace(const TensorView& x, const TensorView& w_gate) {
  if (x.rank < 1 || w_gate.rank != 2) return 0;
  TensorView leading = x;
  leading.rank = x.rank - 1;
  Carver carver(nullptr);
  const Room room(carver, leading.numel(), w_gate.shape[0], w_gate.shape[1], x.dtype);
  return carver.used();
}

void gated_mlp(const TensorView& x, const TensorView& w_gate, const TensorView& w_up,
               const TensorView& w_down_t, const Threshold& threshold, const TensorView& out,
               const GatedMlpOptions& options, const TensorView& workspace, Stream stream) {
  const detail::Checker check("gated_mlp", DeviceType::cuda);
  const detail::Tokens tokens =
      detail::check_gated_mlp(check, x, w_gate, w_up, w_down_t, threshold, out, options);
  check.workspace(workspace, x.device, gated_mlp_workspace(x, w_gate));
  if (out.numel() == 0) return;
  const DeviceGuard guard(x.device);
  Carver carver(workspace.data);
  const Room room(carver, tokens.from.shape[0], w_gate.shape[0], w_gate.shape[1], x.dtype);
  with_element_type(x.dtype, [&]<class T>(T) {
    multiply<T>(w_gate, tokens.from, nullptr, room.gates.data, options, stream);
    select_channels(room.gates, threshold, room.channels, stream);
    multiply<T>(w_up, tokens.from, &room.channels, room.channels.values, options, stream);
  });
  sum_rows(w_down_t, room.channels, tokens.to, {}, stream);
}

}  // namespace gossamer::cuda
