#include <algorithm>

#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "prune/kernels/nm_groups.cuh"
#include "prune/nm.h"
#include "prune/select.h"

namespace gossamer::cuda {

void mark_groups(const NmArgs& groups, DType type, bool largest, prune::Nan nan, Stream stream) {
  const std::int64_t count = groups.parts * groups.groups * groups.cols;
  if (count == 0 || groups.m == 0) return;
  with_key_type(type, [&]<class K>(K) {
    const KeyMap<K> map = key_map<K>(type, largest, nan);
    const dim3 grid(grid_x(ceil_div(count, kPatternThreads))), block(kPatternThreads);
    if (groups.m <= 4) {
      launch(nm_groups<K, 4>, grid, block, 0, stream, groups, map);
    } else if (groups.m <= 8) {
      launch(nm_groups<K, 8>, grid, block, 0, stream, groups, map);
    } else if (groups.m <= 16) {
      launch(nm_groups<K, 16>, grid, block, 0, stream, groups, map);
    } else {
      launch(nm_groups<K, 0>, grid, block, 0, stream, groups, map);
    }
  });
}

std::int64_t nm_mask_workspace(const prune::NmOptions& options) {
  return options.nan == prune::Nan::error ? 16 : 0;
}

void nm_mask(const prune::Score& score, std::int64_t n, std::int64_t m,
             const prune::NmOptions& options, const TensorView& out, const TensorView& workspace,
             Stream stream) {
  const detail::Checker check("nm_mask", DeviceType::cuda);
  const detail::Axes axes = detail::check_nm_mask(check, score, n, m, options, out);
  if (score.w.numel() == 0) return;
  check.workspace(workspace, score.w.device, nm_mask_workspace(options));
  const DeviceGuard guard(score.w.device);
  const DType type = detail::key_type(score);
  SelectPart part = part_of(score, type, nullptr, bytes_of(out));
  if (options.nan == prune::Nan::error) {
    refuse_nans(check, "nm_mask", {&part, 1}, type, workspace.data, stream);
  }
  const std::int64_t groups = axes.length / m, rest = axes.length % m;
  const bool flat = rest == 0 && axes.cols == 1;
  NmArgs args{.part = part,
              .parts = flat ? 1 : axes.parts,
              .part_size = axes.length * axes.cols,
              .groups = flat ? groups * axes.parts : groups,
              .cols = axes.cols,
              .offset = 0,
              .n = n,
              .m = m,
              .tie_high = options.tie == prune::Tie::high};
  mark_groups(args, type, true, options.nan, stream);
  if (rest == 0) return;
  args.offset = groups * m * axes.cols;
  args.groups = 1;
  args.m = rest;
  args.n = options.tail == prune::Tail::keep ? rest : std::min(n, rest);
  mark_groups(args, type, true, options.nan, stream);
}

}  // namespace gossamer::cuda
