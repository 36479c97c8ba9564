// sddmm for BSR patterns: on tensor cores for blocks of half precision, else element by element.

#include <limits>

#include "base/launch.h"
#include "base/runtime.h"
#include "formats/bsr/bsr_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/product_checks.h"
#include "products/kernels/bsr_sddmm_mma.cuh"
#include "products/sddmm.h"

namespace gossamer::cuda {
namespace {

/// Returns whether the product was queued.
template <class T, int Rows, int Warps>
bool run_mma(const BsrView& pattern, const SddmmOperands& x, Stream stream) {
  using Tile = BsrMmaTile<Rows, kSddmmDepth, Warps, BsrLayout::columns>;
  constexpr std::int64_t size = sizeof(T);
  const std::int64_t depth = x.a.shape[1];
  const BsrSddmmArgs<T> args{.indptr = pattern.indptr,
                             .indices = pattern.indices,
                             .rows = static_cast<int>(pattern.rows),
                             .block_rows = pattern.block_rows,
                             .block_cols = pattern.block_cols,
                             .tall = pattern.block_rows / Rows,
                             .dense = x.as<T>(),
                             .copy_a = access_bytes(x.a.data, x.a.strides[0], depth, size),
                             .copy_b = access_bytes(x.b.data, x.b.strides[0], depth, size),
                             .packs = aligned(x.out.data, 8, size, 16)};
  const std::int64_t tiles =
      args.tall * first_tile(pattern.rows, pattern.nblocks, pattern.block_cols, Tile::kColumns);
  if (tiles > std::numeric_limits<int>::max()) return false;
  launch(bsr_sddmm_mma<T, Rows, Warps>, dim3(grid_x(tiles)), dim3(Tile::kThreads), Tile::kShared,
         stream, args);
  return true;
}

template <class T>
bool sddmm_mma(const BsrView& pattern, const SddmmOperands& x, Stream stream) {
  if (pattern.block_rows % 16 != 0 || pattern.block_cols % 8 != 0) return false;
  // With few columns in a row of blocks, more than one warp would have nothing to do.
  const bool thin = pattern.nblocks * pattern.block_cols <= 32 * pattern.rows;
  if (pattern.block_rows % 32 == 0) {
    return thin ? run_mma<T, 32, 1>(pattern, x, stream) : run_mma<T, 32, 4>(pattern, x, stream);
  }
  return thin ? run_mma<T, 16, 1>(pattern, x, stream) : run_mma<T, 16, 4>(pattern, x, stream);
}

}  // namespace

void sample(const BsrView& pattern, const SddmmOperands& x, Stream stream) {
  if (pattern.nblocks == 0) return;
  with_element_type(x.a.dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) == 2) {
      if (sddmm_mma<T>(pattern, x, stream)) return;
    }
    sddmm_of_entries<T, true>(pattern.pattern(), pattern.block_rows, pattern.block_cols, x, stream);
  });
}

std::int64_t sddmm_workspace(const TensorView& /*a*/, const TensorView& /*b*/,
                             const Bsr& /*pattern*/) {
  return 0;
}

void sddmm(const TensorView& a, const TensorView& b, const Bsr& pattern, const TensorView& out,
           bool accumulate, const TensorView& workspace, Stream stream) {
  const detail::Checker check("sddmm", DeviceType::cuda);
  detail::check_sddmm(check, a, b, pattern, out);
  const BsrView view = view_of(check, "pattern", pattern);
  check.workspace(workspace, pattern.device(), 0);
  const DeviceGuard guard(pattern.device());
  sample(view, {a, b, out, accumulate}, stream);
}

}  // namespace gossamer::cuda
