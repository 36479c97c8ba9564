#include "regrow/mask.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>

#include "cuda/backend.h"
#include "gossamer/cuda.h"
#include "regrow/followed.h"

namespace gossamer::python {
namespace {

using Key = std::pair<std::uint64_t, std::uint64_t>;
using prune::Score;
// The CPU's and the GPU's: that one takes a workspace and a stream more.
using cuda::set_drop, regrow::set_drop;

template <class Backend>
py::object drop_grow_mask(Call<Backend>& call, py::handle mask, py::handle drop_score,
                          py::handle grow_score, const std::optional<Key>& random,
                          std::int64_t n_drop, std::int64_t n_grow, const std::string& regrow,
                          py::handle forbid, py::handle weights, py::handle init,
                          const py::list& states, py::handle state_init, bool clear_states,
                          const std::string& tie, const std::string& nan) {
  const regrow::RegrowOptions options = read_regrow_options(call.op(), regrow, tie, nan);
  const Import mask_import = call.write(mask, "mask");
  const TensorView& view = mask_import.view();
  const ScoreOperand<Backend> drop(call, "drop_score", drop_score);
  std::optional<ScoreOperand<Backend>> grow;
  if (!random) grow.emplace(call, "grow_score", grow_score);
  const std::optional<Contiguous<Backend>> forbidden = contiguous_optional(call, "forbid", forbid);
  FollowedArrays arrays(call);
  if (!weights.is_none()) arrays.add(weights, "weights", "init", init, true);
  for (const py::handle state : states) {
    arrays.add(state, "states", "state_init", state_init, clear_states);
  }
  regrow::MaskRegrowth::Growth growth;
  if (random) {
    growth = regrow::RandomGrowth{.seed = random->first, .step = random->second};
  } else {
    growth = grow->score();
  }
  if constexpr (Backend::kDevice == DeviceType::cpu) {
    const regrow::MaskRegrowth chosen = call.run([&] {
      return regrow::MaskRegrowth(view, drop.score(), growth, n_drop, n_grow, view_of(forbidden),
                                  options);
    });
    Output places = call.create("the result", mask, {chosen.fresh()}, DType::i64);
    call.run([&] { chosen.apply(view, arrays.views(), places.view()); });
    return places.finish();
  } else {
    const auto workspace = call.workspace(
        mask, [](const auto&... operands) { return cuda::drop_grow_workspace(operands...); }, view,
        drop.score(), growth);
    const std::int64_t fresh = call.run(workspace, [&](const auto&... queue) {
      return cuda::drop_grow_choose(view, drop.score(), growth, n_drop, n_grow, view_of(forbidden),
                                    options, queue...);
    });
    Output places = call.create("the result", mask, {fresh}, DType::i64);
    call.run(workspace, [&](const auto&... queue) {
      cuda::drop_grow_apply(view, fresh, arrays.views(), places.view(), queue...);
    });
    return places.finish();
  }
}

template <class Backend>
py::object set_drop_mask(Call<Backend>& call, py::handle values, std::int64_t n_positive,
                         std::int64_t n_negative, py::handle out) {
  const Contiguous<Backend> import(call, "values", values, Flat::Keep::contiguous);
  const TensorView& view = import.view();
  Output keep = call.output(out, values, shape_of(view), DType::boolean);
  const auto workspace = call.workspace(
      values, [](const TensorView& given) { return cuda::set_drop_workspace(given); }, view);
  call.run(workspace, [&](const auto&... queue) {
    set_drop(view, n_positive, n_negative, keep.view(), queue...);
  });
  return keep.finish();
}

}  // namespace

template <class Backend>
void bind_regrow_mask(py::module_& module) {
  define(module, {"drop_grow_mask", "drop_grow_"}, &drop_grow_mask<Backend>, py::arg("mask"),
         py::arg("drop_score"), py::arg("grow_score"), py::arg("random"), py::arg("n_drop"),
         py::arg("n_grow"), py::arg("regrow"), py::arg("forbid"), py::arg("weights"),
         py::arg("init"), py::arg("states"), py::arg("state_init"), py::arg("clear_states"),
         py::arg("tie"), py::arg("nan"));
  define(module, "set_drop", &set_drop_mask<Backend>, py::arg("values"), py::arg("n_positive"),
         py::arg("n_negative"), py::arg("out"));
}

template void bind_regrow_mask<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
