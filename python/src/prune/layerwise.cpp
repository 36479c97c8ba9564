#include "prune/layerwise.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "base/call.h"
#include "cuda/backend.h"
#include "gossamer/cuda.h"
#include "gossamer/error.h"
#include "gossamer/prune/layerwise.h"
#include "prune/column_stats.h"
#include "prune/score.h"

namespace gossamer::python {
namespace {

// The operations of CPUs are found by the types of their arguments, or named here: those of GPUs
// take a workspace and a stream more.
using cuda::dsnot_rows_, cuda::obs_block_, cuda::obs_prune_;
using prune::dsnot_rows_, prune::NmPattern, prune::obs_block_, prune::obs_prune_, prune::ObsOptions;

using Pair = std::optional<std::pair<std::int64_t, std::int64_t>>;

std::optional<NmPattern> pattern_of(const Pair& nm) {
  if (!nm) return std::nullopt;
  return NmPattern{.n = nm->first, .m = nm->second};
}

/// The mask of one of both OBS operations: the caller's, which is read, or `out` or a new one,
/// which is written.
template <class Backend>
class ObsMask {
 public:
  ObsMask(Call<Backend>& call, py::handle w, const TensorView& view, py::handle mask,
          py::handle out, const std::optional<std::int64_t>& k, const Pair& nm) {
    if (!mask.is_none() && (k || nm)) {
      throw ValueError(call.where("mask").text() +
                       " is given beside k or nm, expected one of them");
    }
    if (mask.is_none() && !k && !nm) {
      throw ValueError(std::string(call.op()) +
                       ": none of k, nm and mask is given, expected one of them");
    }
    if (mask.is_none()) {
      written_.emplace(call.output(out, w, shape_of(view), DType::boolean));
      return;
    }
    if (!out.is_none()) {
      throw ValueError(call.where("out").text() + " is given beside mask, expected one of them");
    }
    array_ = py::reinterpret_borrow<py::object>(mask);
    read_ = call.read(mask, "mask");
  }

  [[nodiscard]] const TensorView& view() const {
    return written_ ? written_->view() : read_->view();
  }
  [[nodiscard]] py::object finish() { return written_ ? written_->finish() : array_; }

 private:
  py::object array_;
  std::optional<Import> read_;
  std::optional<Output> written_;
};

template <class Backend>
py::object obs_prune_binding(Call<Backend>& call, py::handle w, py::handle u, py::handle mask,
                             std::optional<std::int64_t> k, const Pair& nm, std::int64_t block,
                             py::handle out) {
  const Import w_import = call.write(w, "w");
  const Contiguous<Backend> u_import(call, "u", u, Flat::Keep::contiguous);
  ObsMask<Backend> kept(call, w, w_import.view(), mask, out, k, nm);
  const ObsOptions options{.k = k, .nm = pattern_of(nm), .block = block};
  const auto workspace = call.workspace(
      w, [](const auto&... operands) { return cuda::obs_prune_workspace(operands...); },
      w_import.view(), options);
  call.run(workspace, [&](const auto&... queue) {
    obs_prune_(w_import.view(), u_import.view(), kept.view(), options, queue...);
  });
  return kept.finish();
}

template <class Backend>
py::tuple obs_block_binding(Call<Backend>& call, py::handle w, py::handle u, py::handle mask,
                            std::optional<std::int64_t> k, const Pair& nm, py::handle mask_out,
                            py::handle err_out) {
  const Import w_import = call.write(w, "w");
  const Contiguous<Backend> u_import(call, "u", u, Flat::Keep::contiguous);
  const TensorView& view = w_import.view();
  ObsMask<Backend> kept(call, w, view, mask, mask_out, k, nm);
  Output err = call.output(err_out, w, shape_of(view), u_import.view().dtype, "out[1]");
  const ObsOptions options{.k = k, .nm = pattern_of(nm)};
  const auto workspace = call.workspace(
      w, [](const auto&... operands) { return cuda::obs_block_workspace(operands...); }, view,
      options);
  call.run(workspace, [&](const auto&... queue) {
    obs_block_(view, u_import.view(), kept.view(), options, err.view(), queue...);
  });
  return py::make_tuple(kept.finish(), err.finish());
}

template <class Backend>
void dsnot_binding(Call<Backend>& call, py::handle mask, py::handle w, const Stats& stats,
                   double tolerance, std::int64_t max_iter, double power, bool same_sign,
                   std::optional<std::int64_t> group) {
  const Import mask_import = call.write(mask, "mask");
  const Import w_import = call.read(w, "w");
  if (stats.n() == 0) {
    throw ValueError("dsnot_rows_: stats.n is 0, expected at least one row of activations");
  }
  const Stats now = stats;  // other threads may add rows meanwhile
  call.settle("stats", now.device());
  const prune::DsnotOptions options{.tolerance = tolerance,
                                    .max_iter = max_iter,
                                    .power = power,
                                    .same_sign = same_sign,
                                    .group = group};
  const auto workspace = call.workspace(
      w, [](const TensorView& view) { return cuda::dsnot_rows_workspace(view); }, w_import.view());
  const auto run = [&](const prune::ColumnStats& state) {
    call.run(workspace, [&](const auto&... queue) {
      dsnot_rows_(mask_import.view(), w_import.view(), state, options, queue...);
    });
  };
  if constexpr (Backend::kDevice == DeviceType::cpu) {
    run(now.view_of_state());
  } else {
    const Import state = call.read(now.there(), "stats");
    run(columns_of(state.view(), now.n()));
  }
}

}  // namespace

template <class Backend>
void bind_layerwise(py::module_& module) {
  define(module, "obs_prune_", &obs_prune_binding<Backend>, py::arg("w"), py::arg("u"),
         py::arg("mask"), py::arg("k"), py::arg("nm"), py::arg("block"), py::arg("out"));
  define(module, "obs_block_", &obs_block_binding<Backend>, py::arg("w"), py::arg("u"),
         py::arg("mask"), py::arg("k"), py::arg("nm"), py::arg("mask_out"), py::arg("err_out"));
  define(module, "dsnot_rows_", &dsnot_binding<Backend>, py::arg("mask"), py::arg("w"),
         py::arg("stats"), py::arg("tolerance"), py::arg("max_iter"), py::arg("power"),
         py::arg("same_sign"), py::arg("per"));
}

template void bind_layerwise<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
