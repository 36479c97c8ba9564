#include <algorithm>

#include "activation/activation.h"
#include "activation/kernels/activation_channels.cuh"
#include "activation/kernels/activation_sum.cuh"
#include "base/launch.h"

namespace gossamer::cuda {
namespace {

constexpr int kTokens = 4;  // that a thread has sums for

std::int64_t column_blocks(std::int64_t cols, DType dtype) {
  return ceil_div(cols, kSumThreads * (16 / size_of(dtype)));
}

std::int64_t token_blocks(std::int64_t tokens) {
  return tokens == 1 ? 1 : ceil_div(tokens, kTokens);
}

/// Enough blocks for some 130 multiprocessors, of at least 16 channels each.
std::int64_t splits_of(std::int64_t tokens, std::int64_t count, std::int64_t cols, DType dtype) {
  constexpr std::int64_t kBlocks = 512, kChannels = 16, kMost = 64;
  const std::int64_t blocks =
      std::max<std::int64_t>(column_blocks(cols, dtype) * token_blocks(tokens), 1);
  return std::clamp<std::int64_t>(std::min(ceil_div(kBlocks, blocks), count / kChannels), 1, kMost);
}

std::int64_t product(std::int64_t a, std::int64_t b, std::int64_t c = 1) {
  return make_view(static_cast<void*>(nullptr), DType::f32, {a, b, c}).numel();
}

}  // namespace

ChannelRoom::ChannelRoom(Carver& carver, std::int64_t tokens, std::int64_t count, std::int64_t cols,
                         DType dtype)
    : channels(carver.take<int>(count)),
      found(carver.take<int>(1)),
      values(carver.take_bytes(product(tokens, count) * sum_size(dtype))),
      splits(static_cast<int>(splits_of(tokens, count, cols, dtype))) {
  pieces = carver.take_bytes(product(splits, tokens, cols) * sum_size(dtype));
}

void select_channels(const TensorView& x, const Threshold& threshold, const ChannelRoom& room,
                     Stream stream, const Step* step) {
  with_element_type(x.dtype, [&]<class T>(T) {
    const bool each = threshold.channels.has_value();
    const ActivationSelectArgs<T> args{.x = static_cast<const T*>(x.data),
                                       .stride = row_stride(x),
                                       .tokens = x.shape[0],
                                       .count = static_cast<int>(x.shape[1]),
                                       .threshold = static_cast<Sum<T>>(threshold.value),
                                       .thresholds = each ? threshold.channels->data : nullptr,
                                       .type = each ? threshold.channels->dtype : DType::f32,
                                       .channels = room.channels,
                                       .found = room.found,
                                       .values = static_cast<Sum<T>*>(room.values),
                                       .last = step ? static_cast<Sum<T>*>(step->last) : nullptr,
                                       .refresh = step != nullptr && step->refresh,
                                       .sent = step ? step->sent : nullptr,
                                       .anew = step ? step->anew : nullptr};
    launch(activation_select<T>, dim3(1), dim3(kSelectThreads), 0, stream, args);
  });
}

void sum_rows(const TensorView& table, const ChannelRoom& room, const TensorView& out,
              const Epilogue& epilogue, Stream stream, const Step* step) {
  const std::int64_t tokens = out.shape[0], cols = out.shape[1];
  with_element_type(table.dtype, [&]<class T>(T) {
    const ActivationSumArgs<T> sum{
        .table = static_cast<const T*>(table.data),
        .stride = row_stride(table),
        .cols = cols,
        .rows = room.channels,
        .found = room.found,
        .weights = static_cast<const Sum<T>*>(room.values),
        .ld = table.shape[0],
        .tokens = tokens,
        .splits = room.splits,
        .wide = aligned(table.data, row_stride(table), size_of(table.dtype), 16),
        .pieces = static_cast<Sum<T>*>(room.pieces)};
    const dim3 grid(grid_x(column_blocks(cols, table.dtype)), static_cast<unsigned>(room.splits),
                    grid_y(token_blocks(tokens)));
    if (tokens == 1) {
      launch(activation_sum<T, 1>, grid, dim3(kSumThreads), 0, stream, sum);
    } else {
      launch(activation_sum<T, kTokens>, grid, dim3(kSumThreads), 0, stream, sum);
    }
    const detail::Product last{.b = {},
                               .out = {},
                               .m = 0,
                               .k = 0,
                               .n = 0,
                               .bias = epilogue.bias.has_value() ? epilogue.bias->data : nullptr,
                               .activation = epilogue.activation,
                               .lo = epilogue.lo,
                               .hi = epilogue.hi,
                               .accumulate = epilogue.accumulate};
    const ActivationFinishArgs<T> finish{.pieces = sum.pieces,
                                         .tokens = tokens,
                                         .cols = cols,
                                         .splits = room.splits,
                                         .out = static_cast<T*>(out.data),
                                         .stride = row_stride(out),
                                         .finish = Finish<T>(last),
                                         .kept = step ? static_cast<Sum<T>*>(step->sums) : nullptr,
                                         .anew = step ? step->anew : nullptr};
    launch(activation_finish<T>, dim3(grid_x(ceil_div(cols, kSumThreads)), grid_y(tokens)),
           dim3(kSumThreads), 0, stream, finish);
  });
}

}  // namespace gossamer::cuda
