// Pruning one layer with calibration data: statistics of columns, SparseGPT, DSnoT.

#include <algorithm>
#include <string>

#include "base/carver.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/layerwise_checks.h"
#include "gossamer/detail/shown.h"
#include "prune/kernels/column_stats.cuh"
#include "prune/kernels/dsnot.cuh"
#include "prune/kernels/obs_factor.cuh"
#include "prune/select.h"

namespace gossamer::cuda {
namespace {

using detail::Checker;

double* numbers(const TensorView& view) { return static_cast<double*>(view.data); }

dim3 columns_grid(std::int64_t cols) { return dim3(grid_x(ceil_div(cols, kJoinThreads))); }

}  // namespace

std::int64_t column_stats_workspace(const TensorView& x) {
  const std::int64_t cols = x.rank > 0 ? x.shape[static_cast<std::size_t>(x.rank - 1)] : 0;
  const std::int64_t rows = cols > 0 ? x.numel() / cols : 0;
  return ceil_div(rows, kStatsSegment) * 3 * cols * 8;
}

void column_stats_(prune::ColumnStats& stats, const TensorView& x, const TensorView& workspace,
                   Stream stream) {
  const Checker check("column_stats_", DeviceType::cuda);
  const TensorView rows = detail::check_column_stats(check, stats, x);
  const std::int64_t n = rows.shape[0], cols = rows.shape[1];
  if (n > 0 && cols > 0) {
    check.workspace(workspace, x.device, column_stats_workspace(x));
    const DeviceGuard guard(x.device);
    const std::int64_t segments = ceil_div(n, kStatsSegment);
    auto* parts = static_cast<double*>(workspace.data);
    with_element_type(x.dtype, [&]<class T>(T) {
      const StatsArgs<T> args{.x = static_cast<const T*>(rows.data),
                              .stride = row_stride(rows),
                              .rows = n,
                              .cols = cols,
                              .segments = segments,
                              .parts = parts};
      launch(stats_segments<T>, dim3(grid_x(ceil_div(cols, 32)), grid_y(segments)),
             dim3(32 * kStatsWarps), 0, stream, args);
    });
    const JoinStatsArgs args{.sum = numbers(stats.sum),
                             .sumsq = numbers(stats.sumsq),
                             .m2 = numbers(stats.m2),
                             .from_sum = parts,
                             .from_sumsq = parts + cols,
                             .from_m2 = parts + 2 * cols,
                             .cols = cols,
                             .parts = segments,
                             .stride = 3 * cols,
                             .each = kStatsSegment,
                             .rows = n,
                             .before = stats.n};
    launch(stats_join, columns_grid(cols), dim3(kJoinThreads), 0, stream, args);
  }
  stats.n += n;
}

void merge_(prune::ColumnStats& into, const prune::ColumnStats& from, Stream stream) {
  const Checker check("merge_", DeviceType::cuda);
  detail::check_merge(check, into, from);
  const std::int64_t cols = into.sum.shape[0];
  if (cols > 0 && from.n > 0) {
    const DeviceGuard guard(into.sum.device);
    const JoinStatsArgs args{.sum = numbers(into.sum),
                             .sumsq = numbers(into.sumsq),
                             .m2 = numbers(into.m2),
                             .from_sum = numbers(from.sum),
                             .from_sumsq = numbers(from.sumsq),
                             .from_m2 = numbers(from.m2),
                             .cols = cols,
                             .parts = 1,
                             .stride = 0,
                             .each = from.n,
                             .rows = from.n,
                             .before = into.n};
    launch(stats_join, columns_grid(cols), dim3(kJoinThreads), 0, stream, args);
  }
  into.n += from.n;
}

void column_quotient(const TensorView& numerator, double n, const TensorView& out, Stream stream) {
  const Checker check("ColumnStats", DeviceType::cuda);
  check.rank({"numerator", numerator}, {1});
  check.dtype({"numerator", numerator}, DType::f64, "the state");
  check.device({"numerator", numerator}, numerator.device, "numerator");
  check.contiguous({"numerator", numerator});
  if (out.dtype != DType::f32) check.dtype({"out", out}, DType::f64, "numerator");
  check.same_shape({"out", out}, {"numerator", numerator});
  check.device({"out", out}, numerator.device, "numerator");
  check.contiguous({"out", out});
  check.writable({"out", out}, {{"numerator", numerator}});
  const std::int64_t cols = out.shape[0];
  if (cols == 0) return;
  const DeviceGuard guard(out.device);
  launch(stats_quotient, columns_grid(cols), dim3(kJoinThreads), 0, stream, numbers(numerator), n,
         cols, out.data, out.dtype == DType::f64);
}

namespace {

using prune::ObsOptions;

dim3 each_element(std::int64_t count) { return dim3(grid_x(ceil_div(count, kObsThreads))); }

/// Columns between two choices.
std::int64_t block_of(const ObsOptions& options, std::int64_t cols) {
  const std::int64_t multiple = options.nm ? options.nm->m : 1;
  return ceil_div(std::min(options.block, cols), multiple) * multiple;
}

/// The memory of a call.
struct ObsRoom {
  ObsRoom(void* base, const TensorView& w, const ObsOptions& options, bool with_err) {
    const std::int64_t rows = w.shape[0], cols = w.shape[1];
    const bool f64 = w.dtype == DType::f64;
    const std::int64_t real = f64 ? 8 : 4, block = block_of(options, cols);
    Carver carver(base);
    copy = carver.take<float>(size_of(w.dtype) == 2 ? rows * cols : 0);
    err = carver.take_bytes(with_err ? 0 : rows * kObsPanel * real);
    if (options.k) {
      scores = carver.take_bytes(rows * block * real);
      chosen = carver.take<std::uint8_t>(rows * block);
      rest = carver.take_bytes(select_bytes(rows * block, 1, f64 ? DType::f64 : DType::f32));
    }
    bytes = carver.used();
  }

  float* copy;
  void *err, *scores = nullptr, *rest = nullptr;
  std::uint8_t* chosen = nullptr;
  std::int64_t bytes;
};

template <class T>
class Pruning {
 public:
  /// w, u, mask: elements T, and where their rows begin.
  Pruning(T* w, std::int64_t ldw, const TensorView& u, const TensorView& mask, std::int64_t rows,
          std::int64_t cols, const ObsOptions& options, const ObsRoom& room, Stream stream)
      : w_(w),
        ldw_(ldw),
        u_(static_cast<const T*>(u.data)),
        ldu_(row_stride(u)),
        mask_(bytes_of(mask)),
        ldmask_(row_stride(mask)),
        rows_(rows),
        cols_(cols),
        options_(options),
        room_(room),
        stream_(stream) {}

  /// `err` may be null.
  void run(std::int64_t block, T* err, std::int64_t lderr) const {
    // What columns [0, col) keep: the whole parts of k·col/cols, which end at k.
    const auto kept = [&](std::int64_t col) {
      return *options_.k / cols_ * col + *options_.k % cols_ * col / cols_;
    };
    const std::int64_t m = options_.nm ? options_.nm->m : 0;
    const std::int64_t group = std::max<std::int64_t>(m, 1);
    const std::int64_t most = m > kObsPanel ? kObsPanel : kObsPanel / group * group;
    for (std::int64_t col = 0, chosen = 0; col < cols_;) {
      if (options_.k && col == chosen) {
        chosen = std::min(cols_, col + block);
        choose(col, chosen - col, kept(chosen) - kept(col));
      }
      if (m > kObsPanel && col % m == 0) choose_wide(col);
      // A panel ends where the next choice is made.
      std::int64_t width = std::min(most, cols_ - col);
      if (options_.k) width = std::min(width, chosen - col);
      if (m > kObsPanel) width = std::min(width, m - col % m);
      T* errors = err == nullptr ? static_cast<T*>(room_.err) : err + col;
      prune(col, width, errors, err == nullptr ? kObsPanel : lderr);
      col += width;
    }
  }

 private:
  [[nodiscard]] ObsPanelArgs<T> panel_args(std::int64_t col) const {
    return {.w = w_ + col,
            .ldw = ldw_,
            .rows = rows_,
            .cols = 0,
            .u = u_ + col * ldu_ + col,
            .ldu = ldu_,
            .mask = mask_ + col,
            .ldmask = ldmask_,
            .n = options_.nm ? static_cast<int>(options_.nm->n) : 0,
            .m = options_.nm ? static_cast<int>(options_.nm->m) : 0,
            .err = nullptr,
            .lderr = 0};
  }
  [[nodiscard]] dim3 row_grid() const {
    return dim3(grid_x(std::min<std::int64_t>(ceil_div(rows_, kObsWarps), 1 << 20)));
  }

  /// Keeps the k best of some columns.
  void choose(std::int64_t col, std::int64_t width, std::int64_t k) const {
    const std::int64_t count = rows_ * width;
    auto* scores = static_cast<T*>(room_.scores);
    if (k == 0) {
      fill_zero(room_.chosen, count, stream_);
    } else {
      launch(obs_score<T>, each_element(count), dim3(kObsThreads), 0, stream_, w_ + col, ldw_,
             u_ + col * ldu_ + col, ldu_, count, width, scores);
      const DType type = sizeof(T) == 8 ? DType::f64 : DType::f32;
      SelectPart part{};
      part.score.w = scores;
      part.score.w_type = type;
      part.score.columns = 1;
      part.score.scale = 1;
      part.score.kind = prune::ScoreKind::value;
      part.count = count;
      part.mask = room_.chosen;
      part.direct = true;
      part.wide = true;
      select({.parts = {&part, 1}, .k = k, .type = type, .options = {}}, room_.rest, stream_);
    }
    launch(obs_place, each_element(count), dim3(kObsThreads), 0, stream_, room_.chosen, count,
           width, mask_ + col, ldmask_);
  }

  void choose_wide(std::int64_t col) const {
    launch(obs_choose<T>, row_grid(), dim3(kObsThreads), 0, stream_, panel_args(col));
  }

  void prune(std::int64_t col, std::int64_t width, T* err, std::int64_t lderr) const {
    ObsPanelArgs<T> panel = panel_args(col);
    panel.cols = static_cast<int>(width);
    panel.err = err;
    panel.lderr = lderr;
    if (panel.m > kObsPanel) panel.m = 0;  // its mask is there
    launch(obs_panel<T>, row_grid(), dim3(kObsThreads), 0, stream_, panel);
    const std::int64_t end = col + width, right = cols_ - end;
    if (right == 0) return;
    const ObsTailArgs<T> tail{.c = w_ + end,
                              .ldc = ldw_,
                              .rows = rows_,
                              .cols = right,
                              .a = err,
                              .lda = lderr,
                              .b = u_ + col * ldu_ + end,
                              .b_row = ldu_,
                              .b_col = 1,
                              .depth = static_cast<int>(width),
                              .lower = false};
    launch(obs_tail<T>,
           dim3(grid_x(ceil_div(right, kTailSide)), grid_y(ceil_div(rows_, kTailSide))),
           dim3(kObsThreads), 0, stream_, tail);
  }

  T* w_;
  std::int64_t ldw_;
  const T* u_;
  std::int64_t ldu_;
  std::uint8_t* mask_;
  std::int64_t ldmask_, rows_, cols_;
  const ObsOptions& options_;
  const ObsRoom& room_;
  Stream stream_;
};

void prune_columns(const TensorView& w, const TensorView& u, const TensorView& mask,
                   const ObsOptions& options, std::int64_t block, const TensorView* err,
                   const ObsRoom& room, Stream stream) {
  const std::int64_t rows = w.shape[0], cols = w.shape[1], count = rows * cols;
  const auto run = [&]<class T>(T* work, std::int64_t stride) {
    const Pruning<T> pruning(work, stride, u, mask, rows, cols, options, room, stream);
    pruning.run(block, err == nullptr ? nullptr : static_cast<T*>(err->data),
                err == nullptr ? 0 : row_stride(*err));
  };
  if (w.dtype == DType::f64) return run(static_cast<double*>(w.data), row_stride(w));
  if (w.dtype == DType::f32) return run(static_cast<float*>(w.data), row_stride(w));
  const auto convert = [&](bool widens) {
    launch(obs_convert, each_element(count), dim3(kObsThreads), 0, stream, w.data, w.dtype,
           row_stride(w), room.copy, count, cols, widens);
  };
  convert(true);
  run(room.copy, cols);
  convert(false);
}

}  // namespace

std::int64_t obs_prune_workspace(const TensorView& w, const ObsOptions& options) {
  return w.rank == 2 && options.block > 0 ? ObsRoom(nullptr, w, options, false).bytes : 0;
}

void obs_prune_(const TensorView& w, const TensorView& u, const TensorView& mask,
                const ObsOptions& options, const TensorView& workspace, Stream stream) {
  const Checker check("obs_prune_", DeviceType::cuda);
  detail::check_obs(check, w, u, mask, options, nullptr);
  if (w.numel() == 0) return;
  check.workspace(workspace, w.device, obs_prune_workspace(w, options));
  const DeviceGuard guard(w.device);
  const ObsRoom room(workspace.data, w, options, false);
  prune_columns(w, u, mask, options, block_of(options, w.shape[1]), nullptr, room, stream);
}

std::int64_t obs_block_workspace(const TensorView& w, const ObsOptions& options) {
  ObsOptions whole = options;
  whole.block = w.rank == 2 ? w.shape[1] : 1;
  return w.rank == 2 ? ObsRoom(nullptr, w, whole, true).bytes : 0;
}

void obs_block_(const TensorView& w, const TensorView& u, const TensorView& mask,
                const ObsOptions& options, const TensorView& err, const TensorView& workspace,
                Stream stream) {
  const Checker check("obs_block_", DeviceType::cuda);
  detail::check_obs(check, w, u, mask, options, &err);
  if (w.numel() == 0) return;
  check.workspace(workspace, w.device, obs_block_workspace(w, options));
  const DeviceGuard guard(w.device);
  ObsOptions whole = options;
  whole.block = w.shape[1];
  const ObsRoom room(workspace.data, w, whole, true);
  prune_columns(w, u, mask, whole, w.shape[1], &err, room, stream);
}

namespace {

/// The memory of a factorisation.
struct FactorRoom {
  FactorRoom(void* base, std::int64_t n) {
    Carver carver(base);
    state = carver.take<FactorState>(1);
    panel = carver.take<double>(n * kObsPanel);
    a = carver.take<double>(n * n);
    bytes = carver.used();
  }

  FactorState* state;
  double *panel, *a;
  std::int64_t bytes;
};

}  // namespace

std::int64_t obs_factor_workspace(std::int64_t n) { return FactorRoom(nullptr, n).bytes; }

Factored obs_factor(const TensorView& hessian, double damping, const TensorView& u,
                    const TensorView& workspace, Stream stream) {
  const Checker check("obs_prune_", DeviceType::cuda);
  check.rank({"hessian", hessian}, {2});
  const std::int64_t n = hessian.shape[0];
  check.shape({"hessian", hessian}, {n, n});
  check.device({"hessian", hessian}, hessian.device, "hessian");
  check.layout({"hessian", hessian});
  if (hessian.dtype != DType::f32 && hessian.dtype != DType::f64) {
    check.type_error(std::string("hessian has element type ") + name_of(hessian.dtype) +
                     ", expected float32 or float64");
  }
  if (!(damping >= 0)) {
    check.value_error("damping is " + detail::shown(damping) + ", expected at least 0");
  }
  if (u.dtype != DType::f32) check.dtype({"u", u}, DType::f64, "a factor");
  check.shape({"u", u}, {n, n});
  check.device({"u", u}, hessian.device, "hessian");
  check.layout({"u", u});
  check.writable({"u", u}, {{"hessian", hessian}});
  require_waiting(stream, "obs_prune_", "whether hessian is positive definite");
  if (n == 0) return Factored::yes;
  check.workspace(workspace, hessian.device, obs_factor_workspace(n));
  const DeviceGuard guard(hessian.device);
  const FactorRoom room(workspace.data, n);
  const std::int64_t ldh = row_stride(hessian);
  double* a = room.a;
  launch(obs_scale, dim3(1), dim3(kScaleThreads), 0, stream, hessian.data, hessian.dtype, ldh, n,
         damping, room.state);
  launch(obs_reverse, each_element(n * n), dim3(kObsThreads), 0, stream, hessian.data,
         hessian.dtype, ldh, n, room.state, a);
  for (std::int64_t first = 0; first < n; first += kObsPanel) {
    const auto side = static_cast<int>(std::min<std::int64_t>(kObsPanel, n - first));
    const std::int64_t next = first + side, below = n - next;
    launch(obs_factor_block, dim3(1), dim3(32), 0, stream, a + first * n + first, n, side,
           room.state);
    const FactorStepArgs step{.a = a, .n = n, .first = first, .side = side, .panel = room.panel};
    if (first > 0) {
      launch(obs_beside, each_element(first), dim3(kObsThreads), 0, stream, step);
    }
    if (below == 0) break;
    launch(obs_below, dim3(grid_x(ceil_div(below, kObsWarps))), dim3(kObsThreads), 0, stream, step);
    const double* panel = room.panel + next * kObsPanel;
    const auto change = [&](std::int64_t col, std::int64_t cols, const double* b,
                            std::int64_t b_row, std::int64_t b_col) {
      const ObsTailArgs<double> tail{.c = a + next * n + col,
                                     .ldc = n,
                                     .rows = below,
                                     .cols = cols,
                                     .a = panel,
                                     .lda = kObsPanel,
                                     .b = b,
                                     .b_row = b_row,
                                     .b_col = b_col,
                                     .depth = side,
                                     .lower = col > 0};
      launch(obs_tail<double>,
             dim3(grid_x(ceil_div(cols, kTailSide)), grid_y(ceil_div(below, kTailSide))),
             dim3(kObsThreads), 0, stream, tail);
    };
    change(0, next, a + first * n, n, 1);      // what becomes the inverse
    change(next, below, panel, 1, kObsPanel);  // what is yet to be factored
  }
  launch(obs_return, each_element(n * n), dim3(kObsThreads), 0, stream, a, n, u.data, row_stride(u),
         u.dtype == DType::f64);
  FactorState state{};
  copy_to_host(&state, room.state, sizeof(state), stream);
  return state.not_finite != 0     ? Factored::not_finite
         : state.not_definite != 0 ? Factored::not_definite
                                   : Factored::yes;
}

namespace {

/// Blocks of rows whose keys do not fit into shared memory.
constexpr std::int64_t kDsnotBlocks = 528;

/// The memory of a call.
struct DsnotRoom {
  DsnotRoom(void* base, const TensorView& w) {
    const std::int64_t real = w.dtype == DType::f64 ? 8 : 4, row = w.shape[1] * real;
    in_shared = row <= 40 * 1024;
    blocks = in_shared ? std::min<std::int64_t>(w.shape[0], 1 << 20)
                       : std::min(w.shape[0], kDsnotBlocks);
    Carver carver(base);
    columns = carver.take_bytes(3 * row);
    keys = carver.take_bytes(in_shared ? 0 : blocks * row);
    shared = in_shared ? static_cast<std::size_t>(row) : 0;
    bytes = carver.used();
  }

  bool in_shared;
  std::int64_t blocks;
  void *columns, *keys;
  std::size_t shared;
  std::int64_t bytes;
};

}  // namespace

std::int64_t dsnot_rows_workspace(const TensorView& w) {
  return w.rank == 2 ? DsnotRoom(nullptr, w).bytes : 0;
}

void dsnot_rows_(const TensorView& mask, const TensorView& w, const prune::ColumnStats& stats,
                 const prune::DsnotOptions& options, const TensorView& workspace, Stream stream) {
  const Checker check("dsnot_rows_", DeviceType::cuda);
  detail::check_dsnot(check, mask, w, stats, options);
  const std::int64_t rows = w.shape[0], cols = w.shape[1];
  if (rows == 0 || cols == 0) return;
  check.workspace(workspace, w.device, dsnot_rows_workspace(w));
  const DeviceGuard guard(w.device);
  const DsnotRoom room(workspace.data, w);
  const auto numbers = [](const TensorView& view) { return static_cast<const double*>(view.data); };
  const DsnotColumnsArgs columns{.sum = numbers(stats.sum),
                                 .sumsq = numbers(stats.sumsq),
                                 .m2 = numbers(stats.m2),
                                 .n = static_cast<double>(stats.n),
                                 .power = options.power,
                                 .cols = cols};
  const DsnotArgs args{.w = w.data,
                       .type = w.dtype,
                       .ldw = row_stride(w),
                       .mask = bytes_of(mask),
                       .ldmask = row_stride(mask),
                       .rows = rows,
                       .cols = static_cast<int>(cols),
                       .columns = room.columns,
                       .tolerance = options.tolerance,
                       .steps = options.max_iter,
                       .group = static_cast<int>(options.group.value_or(0)),
                       .same_sign = options.same_sign,
                       .keys = room.in_shared ? nullptr : room.keys};
  const auto run = [&]<class T>(T) {
    launch(dsnot_columns<T>, dim3(1), dim3(kDsnotColumnThreads), 0, stream, columns,
           static_cast<T*>(room.columns));
    launch(dsnot_rows<T>, dim3(grid_x(room.blocks)), dim3(kDsnotThreads), room.shared, stream,
           args);
  };
  w.dtype == DType::f64 ? run(double{}) : run(float{});
}

}  // namespace gossamer::cuda
