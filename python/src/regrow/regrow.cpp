#include "regrow/regrow.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/gil.h"
#include "base/output.h"
#include "formats/handle.h"
#include "gossamer/error.h"
#include "gossamer/regrow.h"
#include "prune/select.h"

namespace gossamer::python {
using namespace prune;
using namespace regrow;
namespace {

using Key = std::pair<std::uint64_t, std::uint64_t>;

RegrowOptions read_options(const char* op, const std::string& regrow, const std::string& tie,
                           const std::string& nan) {
  if (regrow != "allow" && regrow != "forbid") {
    throw ValueError(std::string(op) + ": regrow is '" + regrow +
                     "', expected 'allow' or 'forbid'");
  }
  return {.allow = regrow == "allow", .tie = read_tie(op, tie), .nan = read_nan(op, nan), .op = op};
}

/// Arrays that follow, with what keeps them and the arrays of their new values alive.
class FollowedArrays {
 public:
  explicit FollowedArrays(const char* op) : op_(op) {}

  /// `initial` is a number or an array.
  void add(py::handle array, const char* name, const char* initial_name, py::handle initial,
           bool clears) {
    imports_.push_back(Import::to_write(array, {op_, name}));
    Followed one{.array = imports_.back().view(), .clears = clears, .name = name};
    if (PyNumber_Check(initial.ptr()) != 0 && !py::hasattr(initial, "__dlpack__")) {
      one.value = py::cast<double>(py::float_(py::reinterpret_borrow<py::object>(initial)));
    } else {
      imports_.push_back(Import::to_read(initial, {op_, initial_name}));
      one.source = imports_.back().view();
    }
    views_.push_back(one);
  }

  [[nodiscard]] const std::vector<Followed>& views() const noexcept { return views_; }

 private:
  const char* op_;
  std::vector<Import> imports_;
  std::vector<Followed> views_;
};

std::pair<std::int64_t, py::object> drop_grow_mask(
    py::handle mask, py::handle drop_score, py::handle grow_score, const std::optional<Key>& random,
    std::int64_t n_drop, std::int64_t n_grow, const std::string& regrow, py::handle forbid,
    py::handle weights, py::handle init, const py::list& states, py::handle state_init,
    const std::string& tie, const std::string& nan) {
  constexpr const char* op = "drop_grow_";
  const RegrowOptions options = read_options(op, regrow, tie, nan);
  const Import mask_import = Import::to_write(mask, {op, "mask"});
  const ScoreImport drop(drop_score, {op, "drop_score"});
  std::optional<ScoreImport> grow;
  MaskRegrowth::Growth growth;
  if (random) {
    growth = RandomGrowth{.seed = random->first, .step = random->second};
  } else {
    grow.emplace(grow_score, Where{op, "grow_score"});
    growth = grow->score();
  }
  const std::optional<Flat> forbid_import = flat_optional(forbid, {op, "forbid"});
  FollowedArrays arrays(op);
  if (!weights.is_none()) arrays.add(weights, "weights", "init", init, true);
  for (const py::handle state : states) {
    arrays.add(state, "states", "state_init", state_init, false);
  }
  const MaskRegrowth chosen = [&] {
    const GilRelease unlocked;
    return MaskRegrowth(mask_import.view(), drop.score(), growth, n_drop, n_grow,
                        view_of(forbid_import), options);
  }();
  Output places({op, "the result"}, mask, {chosen.fresh()}, DType::i64);
  {
    const GilRelease unlocked;
    chosen.apply(mask_import.view(), arrays.views(), places.view());
  }
  return {chosen.fresh(), places.finish()};
}

py::object set_drop_mask(py::handle values, std::int64_t n_positive, std::int64_t n_negative,
                         py::handle out) {
  constexpr const char* op = "set_drop";
  const Flat import(values, {op, "values"});
  const TensorView& view = import.view();
  Output keep(op, out, values, shape_of(view), DType::boolean);
  {
    const GilRelease unlocked;
    set_drop(view, n_positive, n_negative, keep.view());
  }
  return keep.finish();
}

/// `longer` begins with the elements of `array`, in memory.
void check_room(const char* op, const char* name, const Import& longer, const Import& array) {
  if (longer.view().data == array.view().data || array.view().numel() == 0) return;
  throw ValueError(std::string(op) + ": " + name + " does not begin with the matrix's own array");
}

py::object drop_grow_rows(py::handle indptr, py::handle indices, py::handle values,
                          std::int64_t rows, std::int64_t cols, py::handle drop_score,
                          py::handle keep, py::handle grow_score,
                          const std::optional<py::tuple>& places, const std::optional<Key>& random,
                          std::int64_t n_drop, std::int64_t n_grow, const std::string& regrow,
                          const std::optional<py::tuple>& forbid, py::handle init,
                          const py::list& states, const std::optional<py::tuple>& room,
                          const std::string& tie, const std::string& nan) {
  constexpr const char* op = "csr_drop_grow_";
  const RegrowOptions options = read_options(op, regrow, tie, nan);
  const Import indptr_import = Import::to_write(indptr, {op, "a.indptr"});
  const Import own_indices = Import::to_write(indices, {op, "a.indices"});
  const Import own_values = Import::to_write(values, {op, "a.values"});
  std::optional<Import> indices_room;
  FollowedArrays arrays(op);
  if (room) {
    indices_room = Import::to_write((*room)[0], {op, "room[0]"});
    check_room(op, "room[0]", *indices_room, own_indices);
    check_room(op, "room[1]", Import::to_write((*room)[1], {op, "room[1]"}), own_values);
  }
  arrays.add(room ? py::handle((*room)[1]) : values, room ? "room[1]" : "a.values", "init", init,
             false);
  const py::float_ zero(0.0);
  for (const py::handle state : states) arrays.add(state, "states", "", zero, false);

  std::optional<ScoreImport> drop, grow, place_scores;
  std::optional<Import> keep_import, place_rows, place_cols, forbid_indptr, forbid_indices;
  Drop dropping;
  if (keep.is_none()) {
    drop.emplace(drop_score, Where{op, "drop_score"});
    dropping = drop->score();
  } else {
    keep_import = Import::to_read(keep, {op, "keep"});
    dropping = keep_import->view();
  }
  RowsGrowth growth;
  if (random) {
    growth = RandomGrowth{.seed = random->first, .step = random->second};
  } else if (places) {
    place_rows = Import::to_read((*places)[0], {op, "grow[0]"});
    place_cols = Import::to_read((*places)[1], {op, "grow[1]"});
    Coordinates given{.rows = place_rows->view(), .cols = place_cols->view()};
    if (places->size() == 3) {
      place_scores.emplace((*places)[2], Where{op, "grow[2]"});
      given.score = place_scores->score();
    }
    growth = given;
  } else {
    grow.emplace(grow_score, Where{op, "grow"});
    growth = grow->score();
  }
  Forbidden forbidden;
  if (forbid) {
    forbid_indptr = Import::to_read((*forbid)[0], {op, "forbid.indptr"});
    forbid_indices = Import::to_read((*forbid)[1], {op, "forbid.indices"});
    forbidden = RowStructure{.indptr = forbid_indptr->view(),
                             .indices = forbid_indices->view(),
                             .rows = py::cast<std::int64_t>((*forbid)[2]),
                             .cols = py::cast<std::int64_t>((*forbid)[3])};
  }
  const TensorView index_view = indices_room ? indices_room->view() : own_indices.view();
  const std::int64_t nnz = own_indices.view().shape[0];
  if (n_drop < 0 || n_drop > nnz) {
    throw ValueError(std::string(op) + ": n_drop is " + std::to_string(n_drop) +
                     ", expected 0 to " + std::to_string(nnz) + ", the number of entries");
  }
  if (n_grow < 0) {
    throw ValueError(std::string(op) + ": n_grow is " + std::to_string(n_grow) +
                     ", expected at least 0");
  }
  Output src({op, "the result"}, indices, {nnz - n_drop + n_grow}, index_view.dtype);
  {
    const GilRelease unlocked;
    drop_grow({.indptr = indptr_import.view(), .indices = index_view, .rows = rows, .cols = cols},
              dropping, growth, n_drop, n_grow, forbidden, arrays.views(), src.view(), options);
  }
  return src.finish();
}

/// Does a matrix made by with_values look into the same index arrays?
bool shares_structure(py::handle a) {
  const auto& structure = py::isinstance<BsrHandle>(a) ? a.cast<const BsrHandle&>().structure
                                                       : a.cast<const CsrHandle&>().structure;
  return structure.use_count() > 1;
}

py::object norms_of_blocks(py::handle blocks) {
  constexpr const char* op = "csr_drop_grow_";
  const Import import = Import::to_read(blocks, {op, "a.blocks"});
  const TensorView& view = import.view();
  Output norms({op, "the scores"}, blocks, {view.shape[0]},
               view.dtype == DType::f64 ? DType::f64 : DType::f32);
  {
    const GilRelease unlocked;
    block_norms(view, norms.view());
  }
  return norms.finish();
}

}  // namespace

void bind_regrow(py::module_& module) {
  module.def("drop_grow_mask", &drop_grow_mask, py::arg("mask"), py::arg("drop_score"),
             py::arg("grow_score"), py::arg("random"), py::arg("n_drop"), py::arg("n_grow"),
             py::arg("regrow"), py::arg("forbid"), py::arg("weights"), py::arg("init"),
             py::arg("states"), py::arg("state_init"), py::arg("tie"), py::arg("nan"));
  module.def("set_drop", &set_drop_mask, py::arg("values"), py::arg("n_positive"),
             py::arg("n_negative"), py::arg("out"));
  module.def("drop_grow_rows", &drop_grow_rows, py::arg("indptr"), py::arg("indices"),
             py::arg("values"), py::arg("rows"), py::arg("cols"), py::arg("drop_score"),
             py::arg("keep"), py::arg("grow_score"), py::arg("places"), py::arg("random"),
             py::arg("n_drop"), py::arg("n_grow"), py::arg("regrow"), py::arg("forbid"),
             py::arg("init"), py::arg("states"), py::arg("room"), py::arg("tie"), py::arg("nan"));
  module.def("shares_structure", &shares_structure, py::arg("a"));
  module.def("block_norms", &norms_of_blocks, py::arg("blocks"));
}

}  // namespace gossamer::python
