// Groups of weights that are pulled towards zero as one, and thresholds of channels.

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/carver.h"
#include "base/launch.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/layerwise_checks.h"
#include "gossamer/detail/update_checks.h"
#include "prune/kernels/groups.cuh"

namespace gossamer::cuda {
namespace {

using detail::Checker;
using detail::Grouped;
using prune::Groups;

/// Blocks of a pass over all norms.
constexpr std::int64_t kMostBlocks = 264;
/// A run beyond this length is a block's.
constexpr std::int64_t kWarpRun = 4096;

dim3 each(std::int64_t count) { return dim3(grid_x(ceil_div(count, kGroupThreads))); }

/// The memory of a call: the norms of `count` groups of w, which are its columns or not.
struct GroupRoom {
  GroupRoom(void* base, const TensorView& w, std::int64_t count, bool columns) {
    Carver carver(base);
    norms = carver.take<double>(count);
    state = carver.take<EnvelopeState>(1);
    most = carver.take<Count>(1);
    sums = carver.take<double>(kMostBlocks * kSlopes);
    stats = carver.take<double>(columns ? 3 * count : 0);
    rest_bytes = columns ? column_stats_workspace(w) : 0;
    rest = carver.take_bytes(rest_bytes);
    bytes = carver.used();
  }

  double* norms;
  EnvelopeState* state;
  Count* most;
  double *sums, *stats;
  void* rest;
  std::int64_t rest_bytes, bytes;
};

/// Fills the norms.
void find_norms(const Grouped& w, const GroupRoom& room, Stream stream) {
  const TensorView& rows = w.rows;
  if (w.length == 0) {
    fill_zero(room.stats, 3 * w.count * 8, stream);
    const auto part = [&](int i) {
      TensorView view = make_view(room.stats + i * w.count, DType::f64, {w.count});
      view.device = rows.device;
      return view;
    };
    TensorView rest = make_view(room.rest, DType::u8, {room.rest_bytes});
    rest.device = rows.device;
    prune::ColumnStats stats{.n = 0, .sum = part(0), .sumsq = part(1), .m2 = part(2)};
    column_stats_(stats, rows, rest, stream);
  }
  with_element_type(rows.dtype, [&]<class T>(T) {
    const auto* x = static_cast<const T*>(rows.data);
    if (w.length == 0) {
      const GroupColumnsArgs<T> args{.x = x,
                                     .stride = row_stride(rows),
                                     .rows = rows.shape[0],
                                     .cols = w.count,
                                     .squares = room.stats + w.count,
                                     .norms = room.norms};
      launch(group_norms_columns<T>, dim3(grid_x(ceil_div(w.count, 32))), dim3(kGroupThreads), 0,
             stream, args);
      return;
    }
    const auto quarter = static_cast<std::uint64_t>(std::clamp<std::int64_t>(w.length / 4, 1, 32));
    const GroupRunsArgs<T> args{
        .x = x,
        .stride = row_stride(rows),
        .length = w.length,
        .across = rows.shape[1] / w.length,
        .count = w.count,
        .lanes = w.length > kWarpRun ? 0 : static_cast<int>(std::bit_floor(quarter)),
        .norms = room.norms};
    const std::int64_t lanes = args.lanes == 0 ? kGroupThreads : args.lanes;
    launch(group_norms_runs<T>, dim3(grid_x(ceil_div(w.count, kGroupThreads / lanes))),
           dim3(kGroupThreads), 0, stream, args);
  });
}

/// Multiplies each group by its factor.
void scale(const Grouped& w, const double* factors, Stream stream) {
  const TensorView& view = w.rows;
  // One long row where nothing lies between rows.
  const bool one = w.length > 0 && (view.shape[0] == 1 || view.strides[0] == view.shape[1]);
  const std::int64_t rows = one ? 1 : view.shape[0], cols = one ? view.numel() : view.shape[1];
  const std::int64_t length = std::max<std::int64_t>(w.length, 1);
  with_element_type(view.dtype, [&]<class T>(T) {
    constexpr std::int64_t size = sizeof(T);
    const std::int64_t stride = one ? 0 : row_stride(view);
    const GroupScaleArgs<T> args{.x = static_cast<T*>(view.data),
                                 .stride = stride,
                                 .rows = rows,
                                 .cols = cols,
                                 .length = length,
                                 .across = w.length > 0 ? cols / length : 0,
                                 .inverse = 1.0 / static_cast<double>(length),
                                 .factors = factors,
                                 .wide = aligned(view.data, stride, size, 16)};
    launch(group_scale<T>, dim3(grid_x(ceil_div(cols, kGroupThreads * (16 / size))), grid_y(rows)),
           dim3(kGroupThreads), 0, stream, args);
  });
}

/// The workspace of groups of w that are not checked yet.
std::int64_t groups_workspace(const TensorView& w, const Groups& groups) {
  const std::int64_t n = w.numel();
  const std::int64_t cols = w.rank > 0 ? w.shape[static_cast<std::size_t>(w.rank - 1)] : 0;
  const bool columns = groups.kind == Groups::Kind::columns;
  const std::int64_t length = groups.kind == Groups::Kind::rows ? cols : groups.length;
  const std::int64_t count = columns ? cols : length > 0 ? n / length : 0;
  return GroupRoom(nullptr, w, count, columns).bytes;
}

}  // namespace

std::int64_t group_soft_threshold_workspace(const TensorView& w, const Groups& groups) {
  return groups_workspace(w, groups);
}

void group_soft_threshold_(const TensorView& w, double threshold, const Groups& groups,
                           const TensorView& workspace, Stream stream) {
  const Checker check("group_soft_threshold_", DeviceType::cuda);
  const Grouped of = detail::check_group_soft_threshold(check, w, threshold, groups);
  if (w.numel() == 0) return;
  check.workspace(workspace, w.device, groups_workspace(w, groups));
  const DeviceGuard guard(w.device);
  const GroupRoom room(workspace.data, w, of.count, of.length == 0);
  find_norms(of, room, stream);
  launch(group_soft_factors, each(of.count), dim3(kGroupThreads), 0, stream, room.norms, of.count,
         threshold);
  scale(of, room.norms, stream);
}

std::int64_t sef_prox_workspace(const TensorView& w, const Groups& groups) {
  return groups_workspace(w, groups);
}

void sef_prox_(const TensorView& w, double lambda, double k, const Groups& groups,
               const TensorView& workspace, Stream stream) {
  const Checker check("sef_prox_", DeviceType::cuda);
  const Grouped of = detail::check_sef_prox(check, w, lambda, k, groups);
  if (w.numel() == 0) return;
  check.workspace(workspace, w.device, groups_workspace(w, groups));
  require_waiting(stream, "sef_prox_", "the largest norm");
  const DeviceGuard guard(w.device);
  const GroupRoom room(workspace.data, w, of.count, of.length == 0);
  find_norms(of, room, stream);
  fill_zero(room.state, sizeof(EnvelopeState), stream);
  fill_zero(room.most, sizeof(Count), stream);
  const dim3 some(grid_x(std::min(kMostBlocks, ceil_div(of.count, kGroupThreads))));
  launch(group_most, some, dim3(kGroupThreads), 0, stream, room.norms, of.count, room.most);
  Count bits = 0;
  copy_to_host(&bits, room.most, sizeof(bits), stream);
  const auto most = std::bit_cast<double>(bits);
  if (!std::isfinite(most)) check.value_error("w holds NaN or infinity, expected neither");
  // u does not depend on the unit of the norms; their quotients and sums could leave the range.
  const bool inside = most == 0 || (most >= 0x1p-300 && most <= 0x1p300);
  const EnvelopeArgs args{.norms = room.norms,
                          .count = of.count,
                          .lambda = lambda,
                          .k = k,
                          .exponent = inside ? 0 : std::ilogb(most),
                          .state = room.state,
                          .sums = room.sums};
  for (int pass = 0; pass < kSlopePasses; ++pass) {
    launch(group_slope, some, dim3(kGroupThreads), 0, stream, args, pass);
  }
  launch(group_envelope_factors, each(of.count), dim3(kGroupThreads), 0, stream, args);
  scale(of, room.norms, stream);
}

double polarization(const TensorView& gamma, double t, double alpha, const TensorView& grad,
                    const TensorView& workspace, Stream stream) {
  const Checker check("polarization", DeviceType::cuda);
  detail::check_polarization(check, gamma, t, alpha, grad);
  if (gamma.numel() == 0) return 0;
  check.workspace(workspace, gamma.device, kPolarizationWorkspace);
  require_waiting(stream, "polarization", "the penalty");
  const DeviceGuard guard(gamma.device);
  auto* value = static_cast<double*>(workspace.data);
  with_element_type(gamma.dtype, [&]<class T>(T) {
    launch(group_polarization<T>, dim3(1), dim3(kGroupThreads), 0, stream,
           static_cast<const T*>(gamma.data), gamma.shape[0], t, alpha, static_cast<T*>(grad.data),
           value);
  });
  double result = 0;
  copy_to_host(&result, value, sizeof(result), stream);
  return result;
}

void channel_threshold(const TensorView& squares, double scale, const TensorView& out,
                       Stream stream) {
  detail::check_channel_threshold(Checker("channel_threshold", DeviceType::cuda), squares, out);
  const std::int64_t cols = squares.shape[0];
  const DeviceGuard guard(squares.device);
  launch(group_channel_thresholds, each(cols), dim3(kGroupThreads), 0, stream, squares.data,
         squares.dtype, cols, scale, static_cast<float*>(out.data));
}

std::int64_t cett_threshold_workspace(const TensorView& w) {
  return groups_workspace(w, {.kind = Groups::Kind::columns});
}

void cett_threshold(const TensorView& w, double t, const TensorView& out,
                    const TensorView& workspace, Stream stream) {
  const Checker check("cett_threshold", DeviceType::cuda);
  detail::check_cett_threshold(check, w, t, out);
  const std::int64_t cols = w.shape[1];
  if (cols == 0) return;
  check.workspace(workspace, w.device, cett_threshold_workspace(w));
  const DeviceGuard guard(w.device);
  const GroupRoom room(workspace.data, w, cols, true);
  find_norms({.rows = w, .length = 0, .count = cols}, room, stream);
  launch(group_cett_thresholds, each(cols), dim3(kGroupThreads), 0, stream, room.norms,
         w.dtype != DType::f64, cols, t, static_cast<float*>(out.data));
}

}  // namespace gossamer::cuda
