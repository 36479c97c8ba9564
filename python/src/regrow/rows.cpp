#include "regrow/rows.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "base/call.h"
#include "cuda/backend.h"
#include "formats/handle.h"
#include "gossamer/cuda.h"
#include "gossamer/error.h"
#include "gossamer/regrow.h"
#include "regrow/followed.h"

namespace gossamer::python {
namespace {

// The operations of CPUs are named here or found by the types of their arguments: those of GPUs
// take a workspace and a stream more.
using cuda::block_norms, cuda::csr_drop_grow_;
using regrow::block_norms, regrow::csr_drop_grow_;
using regrow::Coordinates, regrow::Drop, regrow::Forbidden, regrow::RandomGrowth,
    regrow::RegrowOptions, regrow::RowsGrowth, regrow::RowStructure;

using Key = std::pair<std::uint64_t, std::uint64_t>;

/// `longer` begins with the elements of `array`, in memory.
void check_room(Where where, const Import& longer, const Import& array) {
  if (longer.view().data == array.view().data || array.view().numel() == 0) return;
  throw ValueError(where.text() + " does not begin with the matrix's own array");
}

/// The structure of a CSR or BSR, which is checked.
RowStructure structure_of(py::handle a) {
  if (const auto* held = as<Bsr>(a)) return RowStructure(held->matrix);
  return RowStructure(py::cast<const CsrHandle&>(a).matrix);
}

template <class Backend>
py::object drop_grow_rows(Call<Backend>& call, py::handle a, py::handle indptr, py::handle indices,
                          py::handle values, py::handle drop_score, py::handle keep,
                          py::handle grow_score, const std::optional<py::tuple>& places,
                          const std::optional<Key>& random, std::int64_t n_drop,
                          std::int64_t n_grow, const std::string& regrow, py::handle forbid,
                          py::handle init, const py::list& states,
                          const std::optional<py::tuple>& room, const std::string& tie,
                          const std::string& nan) {
  const RegrowOptions options = read_regrow_options(call.op(), regrow, tie, nan);
  const Import indptr_import = call.write(indptr, "a.indptr");
  const Import own_indices = call.write(indices, "a.indices");
  const Import own_values = call.write(values, "a.values");
  std::optional<Import> indices_room;
  FollowedArrays<Backend> arrays(call);
  if (room) {
    indices_room = call.write((*room)[0], "room[0]");
    check_room(call.where("room[0]"), *indices_room, own_indices);
    check_room(call.where("room[1]"), call.write((*room)[1], "room[1]"), own_values);
  }
  arrays.add(room ? py::handle((*room)[1]) : values, room ? "room[1]" : "a.values", "init", init,
             false);
  const py::float_ zero(0.0);
  for (const py::handle state : states) arrays.add(state, "states", "", zero, false);

  std::optional<ScoreOperand<Backend>> drop, grow, place_scores;
  std::optional<Import> keep_import, place_rows, place_cols;
  Drop dropping;
  if (keep.is_none()) {
    drop.emplace(call, "drop_score", drop_score);
    dropping = drop->score();
  } else {
    keep_import = call.read(keep, "keep");
    dropping = keep_import->view();
  }
  RowsGrowth growth;
  if (random) {
    growth = RandomGrowth{.seed = random->first, .step = random->second};
  } else if (places) {
    place_rows = call.read((*places)[0], "grow[0]");
    place_cols = call.read((*places)[1], "grow[1]");
    Coordinates given{.rows = place_rows->view(), .cols = place_cols->view()};
    if (places->size() == 3) {
      place_scores.emplace(call, "grow[2]", (*places)[2]);
      given.score = place_scores->score();
    }
    growth = given;
  } else {
    grow.emplace(call, "grow", grow_score);
    growth = grow->score();
  }
  Forbidden forbidden;
  if (!forbid.is_none()) forbidden = structure_of(forbid);
  RowStructure structure = structure_of(a);
  if (indices_room) structure = structure.with_room(indices_room->view());
  Output src = call.create("the result", indices, {entries_after(structure, n_drop, n_grow)},
                           structure.indices().dtype);
  const auto workspace = call.workspace(
      indices, [](const auto&... operands) { return cuda::csr_drop_grow_workspace(operands...); },
      structure, dropping, growth, n_drop, n_grow, arrays.views());
  call.run(workspace, [&](const auto&... queue) {
    csr_drop_grow_(structure, dropping, growth, n_drop, n_grow, forbidden, arrays.views(),
                   src.view(), options, queue...);
  });
  return src.finish();
}

template <class Backend>
py::object norms_of_blocks(Call<Backend>& call, py::handle blocks) {
  const Import import = call.read(blocks, "a.blocks");
  const TensorView& view = import.view();
  Output norms = call.create("the scores", blocks, {view.shape[0]},
                             view.dtype == DType::f64 ? DType::f64 : DType::f32);
  call.run([&](const auto&... queue) { block_norms(view, norms.view(), queue...); });
  return norms.finish();
}

}  // namespace

template <class Backend>
void bind_regrow_rows(py::module_& module) {
  define(module, {"drop_grow_rows", "csr_drop_grow_"}, &drop_grow_rows<Backend>, py::arg("a"),
         py::arg("indptr"), py::arg("indices"), py::arg("values"), py::arg("drop_score"),
         py::arg("keep"), py::arg("grow_score"), py::arg("places"), py::arg("random"),
         py::arg("n_drop"), py::arg("n_grow"), py::arg("regrow"), py::arg("forbid"),
         py::arg("init"), py::arg("states"), py::arg("room"), py::arg("tie"), py::arg("nan"));
  define(module, {"block_norms", "csr_drop_grow_"}, &norms_of_blocks<Backend>, py::arg("blocks"));
}

template void bind_regrow_rows<GOSSAMER_BACKEND>(py::module_& module);

}  // namespace gossamer::python
