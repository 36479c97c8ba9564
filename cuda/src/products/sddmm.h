#pragma once

// How the entries of a pattern are divided among warps.

#include <algorithm>

#include "base/launch.h"
#include "formats/bsr/bsr_view.h"
#include "products/csr_product.h"
#include "products/kernels/sddmm_rows.cuh"

namespace gossamer::cuda {

/// Several sets of the operands.
struct SddmmSets {
  std::int64_t count;  // of results
  Sets sets;
  SetSteps a, b;
};

/// The dense operands of an sddmm, which have been checked.
struct SddmmOperands {
  const TensorView& a;  // of the first set
  const TensorView& b;
  const TensorView& out;
  bool accumulate;
  // Of CSR patterns.
  double scale = 1.0;
  const SddmmSets* sets = nullptr;

  /// Whether the result is float32 and the operands are of half precision.
  [[nodiscard]] bool wide() const noexcept { return out.dtype != a.dtype; }

  /// As kernels take them.
  template <class T>
  [[nodiscard]] SddmmDense<T> as() const {
    return {.a = static_cast<const T*>(a.data),
            .lda = a.strides[0],
            .b = static_cast<const T*>(b.data),
            .ldb = b.strides[0],
            .depth = a.shape[1],
            .out = static_cast<T*>(out.data),
            .accumulate = accumulate};
  }
};

/// The products at the pattern's entries, of operands that have been checked.
void sample(const CsrView& pattern, const SddmmOperands& x, Stream stream);
void sample(const BsrView& pattern, const SddmmOperands& x, Stream stream);

template <class T, int V, bool Blocks>
void sddmm_of_entries(SddmmArgs<T> args, std::int64_t sets, Stream stream) {
  while (args.log_group < 5 && (V << args.log_group) < args.dense.depth) ++args.log_group;
  // A warp that handles several neighbouring tiles searches for its first row once. Only as long as
  // enough warps are left for a large device.
  constexpr std::int64_t kWarps = 16384;
  const std::int64_t tiles = ceil_div(args.nnz, 32);
  while (args.tiles < 8 && tiles > 2 * args.tiles * kWarps) args.tiles *= 2;
  constexpr int warps = kSddmmThreads / 32;
  const unsigned blocks = grid_x(ceil_div(tiles, warps * args.tiles));
  if constexpr (Blocks) {
    launch(bsr_sddmm<T, V>, dim3(blocks), dim3(kSddmmThreads), 0, stream, args);
  } else {
    constexpr std::int64_t kMost = 65535;
    for (std::int64_t set = 0; set < sets; set += kMost) {
      const std::int64_t count = std::min(kMost, sets - set);
      args.sets.first = static_cast<unsigned>(set);
      launch(csr_sddmm<T, V>, dim3(blocks, grid_x(count)), dim3(kSddmmThreads), 0, stream, args);
      if (args.wide != nullptr) args.wide += count * args.nnz;
      args.dense.out += count * args.nnz;
    }
  }
}

/// Computes each element by itself. The pattern's entries are blocks of this size.
template <class T, bool Blocks>
void sddmm_of_entries(const CsrView& pattern, int block_rows, int block_cols,
                      const SddmmOperands& x, Stream stream) {
  const SddmmArgs<T> args{.indptr = pattern.indptr,
                          .indices = pattern.indices,
                          .rows = static_cast<int>(pattern.rows),
                          .block_rows = block_rows,
                          .block_cols = block_cols,
                          .nnz = pattern.nnz * block_rows * block_cols,
                          .dense = x.as<T>(),
                          .log_group = 2,
                          .tiles = 1,
                          .scale = static_cast<Sum<T>>(x.scale),
                          .wide = x.wide() ? static_cast<float*>(x.out.data) : nullptr,
                          .sets = x.sets != nullptr ? x.sets->sets : Sets{},
                          .a_steps = x.sets != nullptr ? x.sets->a : SetSteps{},
                          .b_steps = x.sets != nullptr ? x.sets->b : SetSteps{}};
  constexpr std::int64_t size = sizeof(T);
  const auto wide = [&](const TensorView& operand, const SetSteps& steps) {
    return aligned(operand.data, operand.strides[0], size, 16) &&
           aligned(nullptr, steps.outer, size, 16) && aligned(nullptr, steps.step, size, 16);
  };
  const std::int64_t sets = x.sets != nullptr ? x.sets->count : 1;
  if (wide(x.a, args.a_steps) && wide(x.b, args.b_steps)) {
    sddmm_of_entries<T, 16 / size, Blocks>(args, sets, stream);
  } else {
    sddmm_of_entries<T, 1, Blocks>(args, sets, stream);
  }
}

}  // namespace gossamer::cuda
