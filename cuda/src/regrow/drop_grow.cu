#include <algorithm>
#include <cstring>

#include "base/carver.h"
#include "base/kernels/scan.cuh"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/regrow_checks.h"
#include "prune/select.h"
#include "regrow/kernels/drop_grow.cuh"

namespace gossamer::cuda {
namespace {

using detail::Checker;

constexpr const char* kOp = "drop_grow_";

/// What was chosen, and what the selections need.
struct Room {
  Room(void* base, std::int64_t n) {
    Carver carver(base);
    kept = carver.take<std::uint8_t>(n);
    grown = carver.take<std::uint8_t>(n);
    free = carver.take<std::uint8_t>(n);
    totals = carver.take<Count>(2);
    fresh = carver.take<int>(ceil_div(n, kTile));
    selection = carver.take_bytes(0);
    bytes = carver.used();
  }

  std::uint8_t *kept, *grown, *free;
  Count* totals;
  int* fresh;
  void* selection;
  std::int64_t bytes;
};

/// A scalar's bits in a floating type.
std::uint64_t encode(double x, DType dtype) {
  std::uint64_t bits = 0;
  with_element_type(dtype, [&]<class T>(T) {
    T value;
    if constexpr (sizeof(T) == 2) {
      value = T(static_cast<float>(x));
    } else {
      value = static_cast<T>(x);
    }
    std::memcpy(&bits, &value, sizeof(T));
  });
  return bits;
}

std::int64_t read_total(const Count* total, Stream stream) {
  std::int64_t count = 0;
  copy_to_host(&count, total, sizeof(count), stream);
  return count;
}

/// Marks the k of a score's entries in `within` that score highest; there are as many.
void choose(const Checker& check, const prune::Score& score, std::int64_t k,
            const std::uint8_t* within, std::uint8_t* mask, const regrow::RegrowOptions& options,
            void* workspace, Stream stream) {
  const DType type = detail::key_type(score);
  SelectPart part = part_of(score, type, within, mask);
  if (options.nan == prune::Nan::error) {
    refuse_nans(check, kOp, {&part, 1}, type, workspace, stream);
  }
  if (k == 0) return fill_zero(mask, part.count, stream);
  select({.parts = {&part, 1},
          .k = k,
          .type = type,
          .options = {.largest = true, .tie = options.tie, .nan = options.nan}},
         workspace, stream);
}

}  // namespace

std::int64_t drop_grow_workspace(const TensorView& mask, const prune::Score& drop,
                                 const prune::Score& grow) {
  const std::int64_t n = mask.numel();
  return Room(nullptr, n).bytes + std::max(select_bytes(n, 1, detail::key_type(drop)),
                                           select_bytes(n, 1, detail::key_type(grow)));
}

std::int64_t drop_grow_choose(const TensorView& mask, const prune::Score& drop,
                              const prune::Score& grow, std::int64_t n_drop, std::int64_t n_grow,
                              const std::optional<TensorView>& forbid,
                              const regrow::RegrowOptions& options, const TensorView& workspace,
                              Stream stream) {
  const Checker check(kOp, DeviceType::cuda);
  detail::check_drop_grow(check, mask, drop, &grow, forbid);
  const std::int64_t n = mask.numel();
  if (n == 0) {
    detail::check_number(check, "n_drop", n_drop, 0, "active entries");
    detail::check_number(check, "n_grow", n_grow, 0, "places that may grow");
    return 0;
  }
  check.workspace(workspace, mask.device, drop_grow_workspace(mask, drop, grow));
  require_waiting(stream, kOp, "the number of places that are new");
  const DeviceGuard guard(mask.device);
  const Room room(workspace.data, n);
  GrowArgs args{.count = n,
                .mask = bytes_of(mask),
                .forbid = forbid ? bytes_of(*forbid) : nullptr,
                .kept = room.kept,
                .grown = room.grown,
                .free = room.free,
                .allow = options.allow,
                .total = room.totals,
                .fresh = room.fresh,
                .places = nullptr};
  const dim3 grid(grid_x(ceil_div(n, kTile))), block(kMaskThreads);
  fill_zero(room.totals, 2 * sizeof(Count), stream);
  launch(grow_count, grid, block, 0, stream, args);
  const std::int64_t active = read_total(room.totals, stream);
  detail::check_number(check, "n_drop", n_drop, active, "active entries");
  choose(check, drop, active - n_drop, args.mask, room.kept, options, room.selection, stream);
  args.total = room.totals + 1;
  launch(grow_free, grid, block, 0, stream, args);
  const std::int64_t places = read_total(args.total, stream);
  detail::check_number(check, "n_grow", n_grow, places, "places that may grow");
  choose(check, grow, n_grow, room.free, room.grown, options, room.selection, stream);
  launch(grow_fresh, grid, block, 0, stream, args);
  const auto tiles = static_cast<int>(ceil_div(n, kTile));
  launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, room.fresh, tiles);
  int fresh = 0;
  copy_to_host(&fresh, room.fresh + tiles - 1, sizeof(fresh), stream);
  return fresh;
}

void drop_grow_apply(const TensorView& mask, std::int64_t fresh,
                     std::span<const regrow::Followed> arrays, const TensorView& places,
                     const TensorView& workspace, Stream stream) {
  const Checker check(kOp, DeviceType::cuda);
  detail::check_regrown(check, mask, mask, arrays, places, fresh);
  const std::int64_t n = mask.numel();
  if (n == 0) return;
  check.workspace(workspace, mask.device, Room(nullptr, n).bytes);
  const DeviceGuard guard(mask.device);
  const Room room(workspace.data, n);
  const GrowArgs args{.count = n,
                      .mask = bytes_of(mask),
                      .forbid = nullptr,
                      .kept = room.kept,
                      .grown = room.grown,
                      .free = room.free,
                      .allow = false,
                      .total = nullptr,
                      .fresh = room.fresh,
                      .places = static_cast<std::int64_t*>(places.data)};
  for (const regrow::Followed& one : arrays) {
    with_bits_of(one.array.dtype, [&]<class U>(U) {
      const GrowFollowed<U> followed{
          .data = static_cast<U*>(one.array.data),
          .source = one.source ? static_cast<const U*>(one.source->data) : nullptr,
          .value = static_cast<U>(encode(one.value, one.array.dtype)),
          .clears = one.clears};
      launch(grow_follow<U>, dim3(grid_x(ceil_div(n, kMaskThreads))), dim3(kMaskThreads), 0, stream,
             args, followed);
    });
  }
  launch(grow_finish, dim3(grid_x(ceil_div(n, kTile))), dim3(kMaskThreads), 0, stream, args);
}

}  // namespace gossamer::cuda
