#pragma once

// How the entries of a pattern are shared out to warps.

#include "kernels/sddmm.cuh"
#include "ops/launch.h"

namespace gossamer::cuda {

template <class T, int V, bool Blocks>
void sddmm_of_entries(SddmmArgs<T> args, Stream stream) {
  while (args.log_group < 5 && (V << args.log_group) < args.depth) ++args.log_group;
  // Neighbouring tiles find their row at once; as long as there are warps for a large device.
  constexpr std::int64_t kWarps = 16384;
  const std::int64_t tiles = ceil_div(args.nnz, 32);
  while (args.tiles < 8 && tiles > 2 * args.tiles * kWarps) args.tiles *= 2;
  constexpr int warps = kSddmmThreads / 32;
  const dim3 grid(grid_x(ceil_div(tiles, warps * args.tiles)));
  if constexpr (Blocks) {
    launch(bsr_sddmm<T, V>, grid, dim3(kSddmmThreads), 0, stream, args);
  } else {
    launch(csr_sddmm<T, V>, grid, dim3(kSddmmThreads), 0, stream, args);
  }
}

template <class T, bool Blocks>
void sddmm_of_entries(const SddmmArgs<T>& args, Stream stream) {
  constexpr std::int64_t size = sizeof(T);
  if (aligned(args.a, args.lda, size, 16) && aligned(args.b, args.ldb, size, 16)) {
    sddmm_of_entries<T, 16 / size, Blocks>(args, stream);
  } else {
    sddmm_of_entries<T, 1, Blocks>(args, stream);
  }
}

}  // namespace gossamer::cuda
