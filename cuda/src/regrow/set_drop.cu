// The values nearest to zero on each side.

#include "base/carver.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/regrow_checks.h"
#include "prune/select.h"
#include "regrow/kernels/grow_sides.cuh"

namespace gossamer::cuda {
namespace {

/// The memory of a call.
struct SidesRoom {
  SidesRoom(void* base, const TensorView& values) {
    const std::int64_t n = values.numel();
    Carver carver(base);
    positive = carver.take<std::uint8_t>(n);
    negative = carver.take<std::uint8_t>(n);
    small = carver.take<std::uint8_t>(n);
    large = carver.take<std::uint8_t>(n);
    totals = carver.take<Count>(2);
    selection = carver.take_bytes(select_bytes(n, 1, values.dtype));
    bytes = carver.used();
  }

  std::uint8_t *positive, *negative, *small, *large;
  Count* totals;
  void* selection;
  std::int64_t bytes;
};

}  // namespace

std::int64_t set_drop_workspace(const TensorView& values) {
  return SidesRoom(nullptr, values).bytes;
}

void set_drop(const TensorView& values, std::int64_t n_positive, std::int64_t n_negative,
              const TensorView& keep, const TensorView& workspace, Stream stream) {
  const detail::Checker check("set_drop", DeviceType::cuda);
  detail::check_set_drop(check, values, keep);
  const std::int64_t n = values.numel();
  if (n == 0) return detail::check_sides(check, n_positive, 0, n_negative, 0);
  check.workspace(workspace, values.device, set_drop_workspace(values));
  require_waiting(stream, "set_drop", "the numbers of values");
  const DeviceGuard guard(values.device);
  const SidesRoom room(workspace.data, values);
  const dim3 grid(grid_x(ceil_div(n, kMaskThreads))), block(kMaskThreads);
  fill_zero(room.totals, 2 * sizeof(Count), stream);
  with_element_type(values.dtype, [&]<class T>(T) {
    launch(grow_sides<T>, grid, block, 0, stream, static_cast<const T*>(values.data), n,
           room.positive, room.negative, room.totals);
  });
  std::int64_t totals[2] = {};
  copy_to_host(totals, room.totals, sizeof(totals), stream);
  detail::check_sides(check, n_positive, totals[0], n_negative, totals[1]);
  const prune::Score score{.w = values, .kind = prune::ScoreKind::value};
  const auto drop = [&](std::int64_t k, bool largest, const std::uint8_t* side,
                        std::uint8_t* dropped) {
    if (k == 0) return fill_zero(dropped, n, stream);
    SelectPart part = part_of(score, values.dtype, side, dropped);
    // Among equals the smaller index is kept, so the larger one goes first.
    select({.parts = {&part, 1},
            .k = k,
            .type = values.dtype,
            .options = {.largest = largest, .tie = prune::Tie::high}},
           room.selection, stream);
  };
  drop(n_positive, false, room.positive, room.small);
  drop(n_negative, true, room.negative, room.large);
  launch(grow_keep<std::uint8_t>, grid, block, 0, stream, room.small, room.large, n,
         bytes_of(keep));
}

}  // namespace gossamer::cuda
