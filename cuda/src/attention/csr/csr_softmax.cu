#include "attention/csr/kernels/csr_softmax.cuh"
#include "base/row_teams.h"
#include "base/runtime.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/csr_attention_checks.h"

namespace gossamer::cuda {
namespace {

/// The softmax of x or, with `g`, its gradient.
void run(const CsrView& pattern, const TensorView& x, const void* g, const TensorView& out,
         Stream stream) {
  if (x.numel() == 0) return;
  const DeviceGuard guard(x.device);
  const RowTeams teams = teams_of(pattern);
  const std::int64_t sets = x.numel() / pattern.nnz;
  with_element_type(x.dtype, [&]<class T>(T) {
    launch(csr_softmax_rows<T>, team_grid(teams, sets), dim3(kTeamThreads), 0, stream,
           CsrSoftmaxArgs<T>{.teams = teams,
                             .sets = sets,
                             .nnz = pattern.nnz,
                             .x = static_cast<const T*>(x.data),
                             .g = static_cast<const T*>(g),
                             .out = static_cast<T*>(out.data)});
  });
}

}  // namespace

void csr_softmax(const CsrPattern& pattern, const TensorView& x, const TensorView& out,
                 Stream stream) {
  const detail::Checker check("csr_softmax", DeviceType::cuda);
  detail::check_csr_softmax(check, pattern, x, out);
  run(pattern_of(check, "a", pattern), x, nullptr, out, stream);
}

void csr_softmax_backward(const CsrPattern& pattern, const TensorView& y, const TensorView& dy,
                          const TensorView& dx, Stream stream) {
  const detail::Checker check("csr_softmax_backward", DeviceType::cuda);
  detail::check_csr_softmax_backward(check, pattern, y, dy, dx);
  run(pattern_of(check, "p", pattern), y, dy.data, dx, stream);
}

}  // namespace gossamer::cuda
