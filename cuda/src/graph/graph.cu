#include <optional>

#include "base/carver.h"
#include "base/row_teams.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/graph_checks.h"
#include "graph/kernels/graph_edges.cuh"
#include "graph/kernels/graph_rows.cuh"

namespace gossamer::cuda::graph {
namespace {

using detail::Checker;

/// Launches a task over the sets of `values`, or over one set of ones, of type `dtype`.
template <class F>
void run(const Checker& check, const CsrPattern& a, const std::optional<TensorView>& values,
         DType dtype, Stream stream, F&& complete) {
  const CsrView view = pattern_of(check, "a", a);
  const std::int64_t sets = detail::sets_of(a, values);
  const DeviceGuard guard(a.device());
  with_element_type(dtype, [&]<class T>(T) {
    GraphRowsArgs<T> args{.teams = teams_of(view),
                          .task = RowsTask::sum,
                          .sets = sets,
                          .nnz = view.nnz,
                          .values = values ? static_cast<const T*>(values->data) : nullptr,
                          .power = 1.0,
                          .reduced = nullptr,
                          .indices = view.indices,
                          .rows = nullptr,
                          .cols = nullptr,
                          .scaled = nullptr};
    complete(args);
    launch(graph_rows<T>, team_grid(args.teams, sets), dim3(kTeamThreads), 0, stream, args);
  });
}

template <class T>
const Sum<T>* factor(const std::optional<TensorView>& view) {
  return view ? static_cast<const Sum<T>*>(view->data) : nullptr;
}

}  // namespace

void row_sum(const CsrPattern& a, const std::optional<TensorView>& values, const TensorView& sums,
             double power, Stream stream) {
  const Checker check("row_sum", DeviceType::cuda);
  detail::check_row_sum(check, a, values, sums);
  run(check, a, values, values ? values->dtype : DType::f32, stream,
      [&]<class T>(GraphRowsArgs<T>& args) {
        args.power = power;
        args.reduced = static_cast<Sum<T>*>(sums.data);
      });
}

void row_max(const CsrPattern& a, const TensorView& values, const TensorView& out, Stream stream) {
  const Checker check("row_max", DeviceType::cuda);
  detail::check_row_max(check, a, values, out);
  run(check, a, values, values.dtype, stream, [&]<class T>(GraphRowsArgs<T>& args) {
    args.task = RowsTask::largest;
    args.reduced = static_cast<Sum<T>*>(out.data);
  });
}

void scale_rows_cols(const CsrPattern& a, const std::optional<TensorView>& values,
                     const std::optional<TensorView>& rows, const std::optional<TensorView>& cols,
                     const TensorView& out, Stream stream) {
  const Checker check("scale_rows_cols", DeviceType::cuda);
  detail::check_scale_rows_cols(check, a, values, rows, cols, out);
  run(check, a, values, out.dtype, stream, [&]<class T>(GraphRowsArgs<T>& args) {
    args.task = RowsTask::scale;
    args.rows = factor<T>(rows);
    args.cols = factor<T>(cols);
    args.scaled = static_cast<T*>(out.data);
  });
}

std::int64_t edge_score_workspace(const CsrPattern& a) {
  Carver carver(nullptr);
  carver.take<float>(a.rows());
  carver.take<float>(a.rows());
  return carver.used();
}

void edge_score(const CsrPattern& a, const TensorView& scores, const TensorView& workspace,
                Stream stream) {
  const Checker check("edge_score", DeviceType::cuda);
  detail::check_edge_score(check, a, scores);
  const CsrView view = pattern_of(check, "a", a);
  if (view.nnz == 0) return;
  check.workspace(workspace, a.device(), edge_score_workspace(a));
  const DeviceGuard guard(a.device());
  Carver carver(workspace.data);
  auto* root = carver.take<float>(view.rows);
  auto* near = carver.take<float>(view.rows);
  const dim3 grid(grid_x(ceil_div(view.rows, kGraphThreads))), block(kGraphThreads);
  launch(graph_roots, grid, block, 0, stream, view.indptr, view.rows, root);
  launch(graph_near, grid, block, 0, stream, view.indptr, view.indices, view.rows, root, near);
  const RowTeams teams = teams_of(view);
  launch(graph_edge_scores, team_grid(teams, 1), dim3(kTeamThreads), 0, stream, teams, view.indices,
         near, static_cast<float*>(scores.data));
}

namespace {

/// The transpose of a matrix without its permutation, and what making it needs.
struct TurnedRoom {
  TurnedRoom(void* base, std::int64_t cols, std::int64_t nnz, DType dtype) {
    Carver carver(base);
    out.indptr = carver.take<int>(cols + 1);
    out.indices = carver.take<int>(nnz);
    out.values = carver.take_bytes(nnz * size_of(dtype));
    out.permutation = nullptr;
    rest = carver.take_bytes(0);
    bytes = carver.used();
  }

  CsrTransposed out;
  void* rest;
  std::int64_t bytes;
};

CsrView plain_view(const Csr& a) {
  return {.indptr = nullptr,
          .indices = nullptr,
          .values = nullptr,
          .dtype = a.dtype(),
          .rows = a.rows(),
          .cols = a.cols(),
          .nnz = a.nnz()};
}

}  // namespace

std::int64_t strength_workspace(const Csr& a, int axis) {
  if (axis != 0) return 0;
  return TurnedRoom(nullptr, a.cols(), a.nnz(), a.dtype()).bytes +
         transpose_workspace(plain_view(a));
}

void strength(const Csr& a, int axis, const TensorView& sums, const TensorView& workspace,
              Stream stream) {
  const Checker check("strength", DeviceType::cuda);
  detail::check_strength(check, a, axis, sums);
  CsrView view = view_of(check, "a", a);
  if (sums.shape[0] == 0) return;
  check.workspace(workspace, a.device(), strength_workspace(a, axis));
  const DeviceGuard guard(a.device());
  if (axis == 0) {  // rows of the transpose, whose entries are in the order of a's
    const TurnedRoom room(workspace.data, view.cols, view.nnz, view.dtype);
    transpose(view, room.out, room.rest, stream);
    view = {.indptr = room.out.indptr,
            .indices = room.out.indices,
            .values = room.out.values,
            .dtype = view.dtype,
            .rows = view.cols,
            .cols = view.rows,
            .nnz = view.nnz};
  }
  with_element_type(view.dtype, [&]<class T>(T) {
    const GraphStrengthArgs<T> args{.teams = teams_of(view),
                                    .values = static_cast<const T*>(view.values),
                                    .sums = static_cast<Sum<T>*>(sums.data)};
    launch(graph_strength<T>, team_grid(args.teams, 1), dim3(kTeamThreads), 0, stream, args);
  });
}

}  // namespace gossamer::cuda::graph
