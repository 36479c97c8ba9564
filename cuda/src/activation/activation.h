#pragma once

// Steps that the layers with sparse activations share.

#include <cstdint>

#include "base/carver.h"
#include "gossamer/activation.h"
#include "gossamer/cuda.h"

namespace gossamer::cuda {

/// Room on the device for what a layer knows of its channels, and for the pieces of its sums.
struct ChannelRoom {
  /// `tokens` tokens, `count` channels, rows of `cols` numbers of type `dtype`.
  ChannelRoom(Carver& carver, std::int64_t tokens, std::int64_t count, std::int64_t cols,
              DType dtype);

  int* channels;  // [count]
  int* found;     // how many pass
  void* values;   // [tokens, count] of the type of sums, of each row the first *found
  void* pieces;   // [splits, tokens, cols] of the type of sums
  int splits;     // pieces that the list is cut into: depends on the sizes alone
};

inline std::int64_t sum_size(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

/// The channels of x [tokens, count] that pass, and their values.
void select_channels(const TensorView& x, const Threshold& threshold, const ChannelRoom& room,
                     Stream stream);

/// out [tokens, cols] = epilogue(Σ_i values[t, i]·table[channels[i]]).
void sum_rows(const TensorView& table, const ChannelRoom& room, const TensorView& out,
              const Epilogue& epilogue, Stream stream);

}  // namespace gossamer::cuda
