#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/update_checks.h"
#include "prune/kernels/updates.cuh"
#include "prune/select.h"

namespace gossamer::cuda {
namespace {

using detail::Checker;
using detail::UpdateOperands;

void run(Update what, const UpdateOperands& of, double a, Stream stream) {
  const TensorView& x = of.x;
  if (x.shape[0] == 0 || x.shape[1] == 0) return;
  const bool others = of.other.data != nullptr, masked = of.mask.data != nullptr;
  // One long row where nothing lies between rows.
  const auto flat = [](const TensorView& view) {
    return view.shape[0] == 1 || view.strides[0] == view.shape[1];
  };
  const bool one = flat(x) && (!others || flat(of.other)) && (!masked || flat(of.mask));
  const std::int64_t rows = one ? 1 : x.shape[0], cols = one ? x.numel() : x.shape[1];
  with_element_type(x.dtype, [&]<class T>(T) {
    constexpr std::int64_t size = sizeof(T);
    const auto stride = [&](const TensorView& view) { return one ? 0 : view.strides[0]; };
    const UpdateArgs<T> args{
        .what = what,
        .x = static_cast<T*>(x.data),
        .other = static_cast<const T*>(of.other.data),
        .mask = static_cast<const std::uint8_t*>(of.mask.data),
        .stride = stride(x),
        .other_stride = others ? stride(of.other) : 0,
        .mask_stride = masked ? stride(of.mask) : 0,
        .rows = rows,
        .cols = cols,
        .a = static_cast<Sum<T>>(a),
        .wide = aligned(x.data, stride(x), size, 16) &&
                (!others || aligned(of.other.data, stride(of.other), size, 16))};
    launch(update_rows<T>, dim3(grid_x(ceil_div(cols, kUpdateThreads * (16 / size))), grid_y(rows)),
           dim3(kUpdateThreads), 0, stream, args);
  });
}

}  // namespace

void evaluate(const prune::Score& score, const TensorView& out, Stream stream) {
  detail::check_evaluate(Checker("score", DeviceType::cuda), score, out);
  const DeviceGuard guard(out.device);
  const std::int64_t n = out.numel();
  const ScoreArgs args = score_args(score);
  const dim3 grid(grid_x(ceil_div(n, kUpdateThreads))), block(kUpdateThreads);
  if (out.dtype == DType::f64) {
    launch(score_elements<double>, grid, block, 0, stream, args, n, static_cast<double*>(out.data));
  } else {
    launch(score_elements<float>, grid, block, 0, stream, args, n, static_cast<float*>(out.data));
  }
}

void soft_threshold_(const TensorView& w, double threshold, Stream stream) {
  const UpdateOperands of =
      detail::check_soft_threshold(Checker("soft_threshold_", DeviceType::cuda), w, threshold);
  const DeviceGuard guard(w.device);
  run(Update::soft, of, threshold, stream);
}

void shrink_(const TensorView& w, const TensorView& mask, double factor, Stream stream) {
  const UpdateOperands of =
      detail::check_shrink(Checker("shrink_", DeviceType::cuda), w, mask, factor);
  const DeviceGuard guard(w.device);
  run(Update::shrink, of, factor, stream);
}

void srste_grad_(const TensorView& g, const TensorView& w, const TensorView& mask, double decay,
                 Stream stream) {
  const UpdateOperands of =
      detail::check_srste_grad(Checker("srste_grad_", DeviceType::cuda), g, w, mask, decay);
  const DeviceGuard guard(g.device);
  run(Update::decay, of, decay, stream);
}

std::int64_t l0_project_workspace(const TensorView& w) {
  return select_bytes(w.numel(), 1, w.dtype);
}

void l0_project_(const TensorView& w, std::int64_t k, const TensorView& mask,
                 const TensorView& workspace, Stream stream) {
  const Checker check("l0_project_", DeviceType::cuda);
  const UpdateOperands of = detail::check_l0_project(check, w, mask);
  const prune::Score score{.w = w, .kind = prune::ScoreKind::magnitude};
  detail::check_topk_list(check, {&score, 1}, k, prune::MaskFormat::bytes, {}, {&mask, 1});
  if (w.numel() == 0) return;
  check.workspace(workspace, w.device, l0_project_workspace(w));
  const DeviceGuard guard(w.device);
  SelectPart part = part_of(score, w.dtype, nullptr, bytes_of(mask));
  if (k == 0) {
    fill_zero(mask.data, mask.numel(), stream);
  } else {
    select({.parts = {&part, 1}, .k = k, .type = w.dtype, .options = {}}, workspace.data, stream);
  }
  run(Update::shrink, of, 0, stream);
}

}  // namespace gossamer::cuda
