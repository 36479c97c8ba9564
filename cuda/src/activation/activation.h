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

/// A step of delta_linear: its state, which is kept between steps, and what this step does.
struct Step {
  void* last;  // [tokens, count] of the type of sums
  void* sums;  // [tokens, cols] of that type
  int* sent;
  int* anew;  // whether the sums are computed anew: select_channels decides
  bool refresh;
};

/// Selects the channels of x [tokens, count] that pass the threshold, and their values. In a step,
/// those are the changes, or, where the sums are computed anew, all values sent so far.
void select_channels(const TensorView& x, const Threshold& threshold, const ChannelRoom& room,
                     Stream stream, const Step* step = nullptr);

/// out [tokens, cols] = epilogue(Σ_i values[t, i]·table[channels[i]]). In a step, the sums
/// are added to those of the state, or replace them.
void sum_rows(const TensorView& table, const ChannelRoom& room, const TensorView& out,
              const Epilogue& epilogue, Stream stream, const Step* step = nullptr);

}  // namespace gossamer::cuda
