#include <algorithm>
#include <limits>
#include <string>
#include <variant>

#include "gossamer/detail/regrow_checks.h"

namespace gossamer::detail {

void check_number(const Checker& check, const char* name, std::int64_t n, std::int64_t most,
                  const char* what) {
  if (n >= 0 && n <= most) return;
  check.value_error(std::string(name) + " is " + std::to_string(n) + ", expected 0 to " +
                    std::to_string(most) + ", the number of " + what);
}

void check_set_drop(const Checker& check, const TensorView& values, const TensorView& keep) {
  check.floating({"values", values});
  check.device({"values", values}, values.device, "values");
  check.contiguous({"values", values});
  check_mask_out(check, {"out", keep}, {.w = values, .kind = prune::ScoreKind::value});
}

void check_sides(const Checker& check, std::int64_t n_positive, std::int64_t positive,
                 std::int64_t n_negative, std::int64_t negative) {
  check_number(check, "n_positive", n_positive, positive, "positive values");
  check_number(check, "n_negative", n_negative, negative, "negative values");
}

void check_followed(const Checker& check, std::span<const regrow::Followed> arrays, Device device,
                    const char* like, std::initializer_list<Argument> others) {
  for (const regrow::Followed& followed : arrays) {
    const Argument array{followed.name, followed.array};
    check.floating(array);
    check.device(array, device, like);
    check.contiguous(array);
    check.writable(array, others);
    if (!followed.source) continue;
    const std::string name = std::string("the values for ") + followed.name;
    const Argument source{name.c_str(), *followed.source};
    check.dtype(source, followed.array.dtype, followed.name);
    check.device(source, device, like);
    check.same_shape(source, array);
    check.contiguous(source);
    for (const Argument& other : others) check.writable(other, {source});
  }
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const Argument array{arrays[i].name, arrays[i].array};
    for (std::size_t j = 0; j < arrays.size(); ++j) {
      const std::string name = std::string("the values for ") + arrays[j].name;
      if (arrays[j].source) check.writable(array, {{name.c_str(), *arrays[j].source}});
      if (j < i) check.writable(array, {{arrays[j].name, arrays[j].array}});
    }
  }
}

void check_drop_grow(const Checker& check, const TensorView& mask, const prune::Score& drop,
                     const prune::Score* grow, const std::optional<TensorView>& forbid) {
  check.device({"mask", mask}, mask.device, "mask");
  check.mask({"mask", mask});
  check.contiguous({"mask", mask});
  check_score(check, drop);
  check.same_shape({"drop_score", drop.w}, {"mask", mask});
  if (grow != nullptr) {
    check_score(check, *grow);
    check.same_shape({"grow_score", grow->w}, {"mask", mask});
  }
  if (forbid) {
    const Argument forbidden{"forbid", *forbid};
    check.device(forbidden, mask.device, "mask");
    check.mask(forbidden);
    check.contiguous(forbidden);
    check.same_shape(forbidden, {"mask", mask});
  }
}

void check_regrown(const Checker& check, const TensorView& mask, const TensorView& chosen,
                   std::span<const regrow::Followed> arrays, const TensorView& places,
                   std::int64_t fresh) {
  check.mask({"mask", mask});
  check.contiguous({"mask", mask});
  check.device({"mask", mask}, chosen.device, "mask");
  check.same_shape({"mask", mask}, {"the mask that was looked at", chosen});
  check.writable({"mask", mask}, {{"the result", places}});
  check.dtype({"the result", places}, DType::i64, "the indices'");
  check.shape({"the result", places}, {fresh});
  check.contiguous({"the result", places});
  check.writable({"the result", places}, {});
  for (const regrow::Followed& one : arrays) {
    check.same_shape({one.name, one.array}, {"mask", mask});
  }
  check_followed(check, arrays, mask.device, "mask", {{"mask", mask}, {"the result", places}});
}

void check_drop(const Checker& check, const regrow::Drop& drop, std::int64_t nnz,
                std::int64_t n_drop, Device device) {
  if (const auto* score = std::get_if<prune::Score>(&drop)) {
    check_score(check, *score);
    check.rank({"drop_score", score->w}, {1});
    check.extent({"drop_score", score->w}, 0, nnz, "the number of entries");
    check_number(check, "n_drop", n_drop, nnz, "entries");
    return;
  }
  const TensorView& keep = std::get<TensorView>(drop);
  check.rank({"keep", keep}, {1});
  check.mask({"keep", keep});
  check.contiguous({"keep", keep});
  check.device({"keep", keep}, device, "indices");
  check.extent({"keep", keep}, 0, nnz, "the number of entries");
}

void check_dropped(const Checker& check, std::int64_t zeros, std::int64_t n_drop) {
  if (zeros == n_drop) return;
  check.value_error("keep has " + std::to_string(zeros) +
                    " zeros, expected n_drop = " + std::to_string(n_drop));
}

void check_drop_grow_rows(const Checker& check, const regrow::RowStructure& structure,
                          const regrow::RowsGrowth& grow, std::int64_t after,
                          const regrow::Forbidden& forbid, std::span<const regrow::Followed> arrays,
                          const TensorView& src) {
  const std::int64_t most = std::max(after, structure.nnz());
  const Argument indptr{"indptr", structure.indptr()}, indices{"indices", structure.indices()};
  const Device device = structure.indptr().device;
  check.device(indptr, device, "indptr");
  check.writable(indptr, {indices});
  check.writable(indices, {});
  if (forbid) {
    check.device({"forbid.indptr", forbid->indptr()}, device, "indices");
    if (forbid->rows() != structure.rows() || forbid->cols() != structure.cols()) {
      const auto shape = [](const regrow::RowStructure& s) {
        return shape_string(make_view(s.indptr().data, DType::u8, {s.rows(), s.cols()}));
      };
      check.value_error("forbid.shape is " + shape(*forbid) + ", expected " + shape(structure));
    }
  }
  if (const auto* score = std::get_if<prune::Score>(&grow)) {
    check_score(check, *score);
    check.device({"grow", score->w}, device, "indices");
    check.shape({"grow", score->w}, {structure.rows(), structure.cols()});
  }
  const Argument result{"the result", src};
  check.dtype(result, structure.indices().dtype, "indices");
  check.device(result, device, "indices");
  check.shape(result, {after});
  check.contiguous(result);
  check.writable(result, {indptr, indices});
  for (const regrow::Followed& one : arrays) {
    const Argument array{one.name, one.array};
    if (one.array.rank == 0) check.rank(array, {1, 2, 3});
    if (one.source) {
      check.value_error("the values for " + std::string(one.name) +
                        " are an array, expected a number");
    }
    if (one.array.shape[0] < most) {
      check.value_error(std::string(one.name) + ".shape[0] is " +
                        std::to_string(one.array.shape[0]) + ", expected at least " +
                        std::to_string(most) + ", the entries before and after");
    }
  }
  check_followed(check, arrays, device, "indices", {indptr, indices, result});
}

void check_coordinates(const Checker& check, const regrow::Coordinates& given) {
  for (const Argument& array :
       {Argument{"grow rows", given.rows}, Argument{"grow columns", given.cols}}) {
    if (array.view.dtype != DType::i32 && array.view.dtype != DType::i64) {
      check.type_error(std::string(array.name) + ".dtype is " + name_of(array.view.dtype) +
                       ", expected int32 or int64");
    }
    check.rank(array, {1});
  }
  const std::int64_t count = given.rows.shape[0];
  check.extent({"grow columns", given.cols}, 0, count, "the number of rows given");
  if (!given.score) return;
  check_score(check, *given.score);
  check.rank({"grow scores", given.score->w}, {1});
  check.extent({"grow scores", given.score->w}, 0, count, "the number of rows given");
}

void check_place(const Checker& check, std::int64_t i, std::int64_t row, std::int64_t column,
                 std::int64_t rows, std::int64_t cols) {
  const auto inside = [&](const char* name, std::int64_t got, std::int64_t extent) {
    if (got >= 0 && got < extent) return;
    check.value_error(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(got) +
                      ", expected 0 to " + std::to_string(extent - 1));
  };
  inside("grow rows", row, rows);
  inside("grow columns", column, cols);
}

void check_block_norms(const Checker& check, const TensorView& blocks, const TensorView& norms) {
  const prune::Score score{.w = blocks, .kind = prune::ScoreKind::magnitude};
  check_score(check, score);
  if (blocks.rank == 0) check.rank({"blocks", blocks}, {1, 2, 3});
  check.dtype({"norms", norms}, prune::dtype_of(score), "the scores'");
  check.device({"norms", norms}, blocks.device, "blocks");
  check.shape({"norms", norms}, {blocks.shape[0]});
  check.contiguous({"norms", norms});
  check.writable({"norms", norms}, {{"blocks", blocks}});
}

}  // namespace gossamer::detail

namespace gossamer::regrow {
using namespace detail;

RowStructure::RowStructure(const Csr& a) noexcept
    : indptr_(a.indptr()), indices_(a.indices()), rows_(a.rows()), cols_(a.cols()), nnz_(a.nnz()) {}

RowStructure::RowStructure(const Bsr& a) noexcept
    : indptr_(a.indptr()),
      indices_(a.indices()),
      rows_(a.rows() / a.block_rows()),
      cols_(a.cols() / a.block_cols()),
      nnz_(a.nblocks()) {}

RowStructure RowStructure::with_room(const TensorView& indices) const {
  const Checker check("RowStructure", indices_.device.type);
  const Argument longer{"indices", indices};
  check.dtype(longer, indices_.dtype, "the structure's indices");
  check.device(longer, indices_.device, "the structure");
  check.rank(longer, {1});
  check.contiguous(longer);
  if (indices.shape[0] < nnz_ || (nnz_ > 0 && indices.data != indices_.data)) {
    check.value_error("indices do not begin with the structure's own in memory");
  }
  RowStructure result = *this;
  result.indices_ = indices;
  return result;
}

std::int64_t entries_after(const RowStructure& structure, std::int64_t n_drop,
                           std::int64_t n_grow) {
  const Checker check("csr_drop_grow_");
  const std::int64_t nnz = structure.nnz();
  check_number(check, "n_drop", n_drop, nnz, "entries");
  if (n_grow < 0) {
    check.value_error("n_grow is " + std::to_string(n_grow) + ", expected at least 0");
  }
  const bool narrow = structure.indices().dtype == DType::i32;
  const std::int64_t most =
      narrow ? std::numeric_limits<std::int32_t>::max() : std::numeric_limits<std::int64_t>::max();
  if (n_grow > most - (nnz - n_drop)) {
    check.value_error("n_grow is " + std::to_string(n_grow) + ", expected at most " +
                      std::to_string(most - (nnz - n_drop)) + " for " +
                      name_of(structure.indices().dtype) + " indices");
  }
  const std::int64_t after = nnz - n_drop + n_grow, longest = std::max(after, nnz);
  if (structure.indices().shape[0] < longest) {
    check.value_error("indices.shape[0] is " + std::to_string(structure.indices().shape[0]) +
                      ", expected at least " + std::to_string(longest) +
                      ", the entries before and after");
  }
  return after;
}

}  // namespace gossamer::regrow
