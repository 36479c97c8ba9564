#include <optional>

#include "base/row_teams.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/graph_checks.h"
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

}  // namespace gossamer::cuda::graph
