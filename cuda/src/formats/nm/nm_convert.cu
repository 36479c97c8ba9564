#include <string>

#include "base/launch.h"
#include "base/runtime.h"
#include "formats/nm/kernels/nm_dense.cuh"
#include "formats/nm/nm_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/format_checks.h"

namespace gossamer::cuda {
namespace {

NmDenseArgs dense_args(const NmLines& a, const TensorView& dense, int axis) {
  const std::int64_t stride = row_stride(dense), groups = a.length / a.m;
  return {.a = a,
          .values = nullptr,
          .indices = nullptr,
          .eights = ceil_div(groups, kNmDenseGroups),
          .dense = dense.data,
          .line = axis == 1 ? stride : 1,
          .step = axis == 1 ? 1 : stride,
          .mask = nullptr,
          .mask_line = 0,
          .mask_step = 0,
          .bad = nullptr};
}

dim3 grid_of(const NmDenseArgs& args) {
  return dim3(grid_x(ceil_div(args.eights * args.a.lines, kNmDenseThreads)));
}

}  // namespace

std::int64_t nm_pack_workspace(const TensorView& /*w*/) { return sizeof(unsigned long long); }

void nm_pack(const TensorView& w, const std::optional<TensorView>& mask, std::int64_t n,
             std::int64_t m, int axis, const TensorView& values, const TensorView& indices,
             const TensorView& workspace, Stream stream) {
  const detail::Checker check("NM.from_dense", DeviceType::cuda);
  const NmShape shape = detail::check_nm_pack(check, w, mask, n, m, axis, values, indices);
  check.workspace(workspace, w.device, nm_pack_workspace(w));
  const DeviceGuard guard(w.device);
  require_waiting(stream, "NM.from_dense", "whether a group has too many elements");
  const std::int64_t length = w.shape[static_cast<std::size_t>(axis)];
  if (shape.lines == 0 || length == 0) return;
  NmDenseArgs args = dense_args({.values = nullptr,
                                 .indices = nullptr,
                                 .index_bytes = shape.index_bytes,
                                 .lines = shape.lines,
                                 .slots = shape.slots,
                                 .length = length,
                                 .n = static_cast<int>(n),
                                 .m = static_cast<int>(m),
                                 .bits = Nm::bits_of(m)},
                                w, axis);
  args.values = values.data;
  args.indices = static_cast<std::uint8_t*>(indices.data);
  if (mask) {
    args.mask = static_cast<const std::uint8_t*>(mask->data);
    args.mask_line = axis == 1 ? row_stride(*mask) : 1;
    args.mask_step = axis == 1 ? 1 : row_stride(*mask);
  }
  args.bad = static_cast<unsigned long long*>(workspace.data);
  constexpr auto kNone = ~0ull;
  fill_ones(args.bad, sizeof(kNone), stream);
  with_bits_of(w.dtype, [&]<class U>(U) {
    launch(nm_pack_groups<U>, grid_of(args), dim3(kNmDenseThreads), 0, stream, args);
  });
  unsigned long long bad = kNone;
  copy_to_host(&bad, args.bad, sizeof(bad), stream);
  if (bad == kNone) return;
  const auto groups = static_cast<std::int64_t>(length / m),
             number = static_cast<std::int64_t>(bad);
  const std::int64_t line = number / groups, first = number % groups * m;
  const std::string at = axis == 1 ? std::to_string(line) + ", " + std::to_string(first)
                                   : std::to_string(first) + ", " + std::to_string(line);
  check.value_error(std::string(mask ? "mask keeps" : "w has") + " more elements" +
                    (mask ? "" : " other than 0") + " in the group from [" + at + "] along axis " +
                    std::to_string(axis) + ", expected at most n = " + std::to_string(n));
}

void nm_to_dense(const Nm& a, const TensorView& out, Stream stream) {
  const detail::Checker check("NM.to_dense", DeviceType::cuda);
  detail::check_nm_to_dense(check, a, out);
  require_int(check, "a", a);
  if (out.numel() == 0) return;
  const DeviceGuard guard(a.device());
  const NmDenseArgs args = dense_args(lines_of(a), out, a.axis());
  with_bits_of(a.dtype(), [&]<class U>(U) {
    launch(nm_unpack_groups<U>, grid_of(args), dim3(kNmDenseThreads), 0, stream, args);
  });
}

}  // namespace gossamer::cuda
