// Each operation of pruning, regrowth and graphs once, on numbers small enough to check by hand,
// and what they refuse.
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "check.h"
#include "gossamer/gossamer.h"

namespace {

namespace graph = gossamer::graph;
namespace prune = gossamer::prune;
namespace regrow = gossamer::regrow;
using gossamer::Csr;
using gossamer::DType;
using gossamer::make_view;
using gossamer::TensorView;

template <class T>
constexpr DType type_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::i64;
  return DType::u8;
}

/// A view of an array, as a vector or as a matrix.
template <class T, std::size_t N>
TensorView view(std::array<T, N>& x) {
  return make_view(x.data(), type_of<T>(), {static_cast<std::int64_t>(N)});
}
template <class T, std::size_t N>
TensorView view(std::array<T, N>& x, std::int64_t rows) {
  return make_view(x.data(), type_of<T>(), {rows, static_cast<std::int64_t>(N) / rows});
}

template <class F>
bool refuses(F&& call) {
  try {
    call();
  } catch (const gossamer::ValueError&) {
    return true;
  }
  return false;
}

using Mask = std::array<std::uint8_t, 4>;

void scores_are_evaluated() {
  std::array<float, 4> w = {1, -2, 3, -4}, g = {1, 1, 2, 0}, out = {};
  const prune::Score score{.w = view(w), .kind = prune::ScoreKind::snip, .g = view(g)};
  prune::evaluate(score, view(out));
  check(out == std::array<float, 4>{1, 2, 6, 0}, "evaluate");
  check(prune::dtype_of(score) == DType::f32, "dtype_of");
  const prune::Score lacks{.w = view(w), .kind = prune::ScoreKind::snip};
  check(refuses([&] { prune::evaluate(lacks, view(out)); }), "a score without its gradient");
}

void selections_are_exact() {
  std::array<float, 4> x = {3, 1, 2, 2}, y = {5, 0, 0, 0};
  const std::array<prune::Score, 2> scores = {
      prune::Score{.w = view(x), .kind = prune::ScoreKind::value},
      prune::Score{.w = view(y), .kind = prune::ScoreKind::value}};
  Mask a = {}, b = {};
  const std::array<TensorView, 2> outs = {view(a), view(b)};
  prune::topk_mask(scores, 3, {}, {}, outs);
  check(a == Mask{1, 0, 1, 0} && b == Mask{1, 0, 0, 0}, "topk_mask of a list");
  const std::array<TensorView, 2> same = {view(a), view(a)};
  check(refuses([&] { prune::topk_mask(scores, 3, {}, {}, same); }), "two outs in one place");
  check(refuses([&] { prune::topk_mask(scores, 3, {}, {}, std::span(outs).first(1)); }),
        "fewer outs than scores");
  check(refuses([&] { prune::topk_mask(scores, 3, {}, std::span(outs).first(1), outs); }),
        "fewer masks within than scores");

  const std::array<std::int64_t, 1> one = {1};
  prune::topk_mask(scores[0], {.length = 2}, one, {.tie = prune::Tie::high}, {}, view(a));
  check(a == Mask{1, 0, 0, 1}, "topk_mask of segments");
  const prune::Kth kth = prune::kth(scores[0], 2, {});
  check(kth.threshold == 2 && kth.n_strict == 1 && kth.n_tie == 1, "kth");
  check(prune::kth_pair(scores[0], 1, {.largest = false}) == std::array<double, 2>{1, 2},
        "kth_pair");
  const std::array<std::int64_t, 3> offsets = {0, 1, 4};
  std::array<float, 2> thresholds = {};
  std::array<std::int64_t, 2> strict = {}, tie = {};
  prune::kth(scores[0], {.offsets = offsets}, one, {}, view(thresholds), view(strict), view(tie));
  check(thresholds == std::array<float, 2>{3, 2}, "kth of segments");
  x[1] = std::nanf("");
  check(prune::count_nan(scores[0]) == 1, "count_nan");
  check(refuses([&] { prune::topk_mask(scores, 3, {.nan = prune::Nan::error}, {}, outs); }),
        "NaN where it is an error");
  x[1] = 1;

  Mask part = {}, whole = {};
  prune::random_mask(2, 7, 0, {}, view(whole));
  prune::random_mask(2, 7, 0, {}, make_view(part.data(), DType::u8, {2}),
                     {.offset = 2, .total = 4});
  check(part[0] == whole[2] && part[1] == whole[3], "random_mask of a part");
  std::array<float, 2> values = {};
  std::array<std::int32_t, 2> indices = {};
  prune::topk_rows(view(x, 2), 1, {}, {}, view(values, 2), view(indices, 2));
  check(values == std::array<float, 2>{3, 2} && indices == std::array<std::int32_t, 2>{0, 0},
        "topk_rows");
}

void selections_of_several_processes_are_asked_in_order() {
  std::array<float, 4> x = {3, 1, 2, 2};
  const prune::Score score{.w = view(x), .kind = prune::ScoreKind::value};
  prune::Selection selection(3, DType::f32, {});
  Mask mask = {};
  check(refuses([&] { static_cast<void>(selection.threshold()); }), "threshold before done");
  check(refuses([&] { static_cast<void>(selection.ties(score)); }), "ties before done");
  check(refuses([&] { selection.emit(score, 0, view(mask)); }), "emit before done");
  std::vector<std::int64_t> counts(prune::Selection::kCounts);
  check(refuses([&] { selection.narrow(std::span(counts).first(3)); }), "counts of a wrong size");
  counts[0] = -1;
  check(refuses([&] { selection.narrow(counts); }), "negative counts");
  while (!selection.done()) {
    counts.assign(counts.size(), 0);
    selection.histogram(score, counts);
    selection.narrow(counts);
  }
  check(selection.threshold() == 2 && selection.ties(score) == 2, "threshold and ties");
  check(refuses([&] { selection.emit(score, -5, view(mask)); }), "ties before this process < 0");
  selection.emit(score, 1, view(mask));
  check(mask == Mask{1, 0, 1, 0}, "emit");
}

void patterns_hold() {
  std::array<float, 4> x = {1, 3, 2, 0};
  const prune::Score score{.w = view(x, 2), .kind = prune::ScoreKind::value};
  Mask mask = {};
  prune::nm_mask(score, 1, 2, {}, view(mask, 2));
  check(mask == Mask{0, 1, 1, 0}, "nm_mask");
  const prune::NmViolations found = prune::check_nm(view(x, 2), 1, INT64_MAX);
  check(found.count == 1 && found.first == 0, "check_nm");
  check(!prune::check_nm(view(mask, 2), 1, 2).first, "check_nm of a mask that holds");
  prune::nm_mask_transposable(score, 1, 2, prune::MaskMethod::exact, view(mask, 2));
  check(mask == Mask{0, 1, 1, 0}, "nm_mask_transposable");
  const prune::Score row{.w = view(x, 1), .kind = prune::ScoreKind::value};
  prune::vnm_mask(row, 1, 2, 4, prune::MaskMethod::greedy, view(mask, 1));
  check(mask == Mask{0, 1, 1, 0}, "vnm_mask");
  std::array<float, 2> pooled = {};
  prune::block_pool(score, {.rows = 1, .cols = INT64_MAX}, prune::Reduce::l1, view(pooled, 2));
  check(pooled == std::array<float, 2>{4, 2}, "block_pool");
  std::array<std::uint8_t, 2> rows = {0, 1};
  prune::expand_blocks(view(rows, 2), {.rows = 1, .cols = 2}, view(mask, 2));
  check(mask == Mask{0, 0, 1, 1}, "expand_blocks");
  std::array<std::int32_t, 4> order = {};
  check(prune::permutation_search(row, 1, 2, {}, view(order)) == 5, "permutation_search");
}

void layers_are_pruned() {
  std::array<double, 2> sum = {}, sumsq = {}, m2 = {};
  prune::ColumnStats stats{.sum = view(sum), .sumsq = view(sumsq), .m2 = view(m2)};
  std::array<float, 4> x = {1, 2, 3, 4};
  prune::column_stats_(stats, view(x, 2));
  prune::merge_(stats, stats);
  check(stats.n == 4 && sum == std::array<double, 2>{8, 12}, "column_stats_ and merge_");
  prune::ColumnStats shared{.sum = view(sum), .sumsq = view(sum), .m2 = view(m2)};
  check(refuses([&] { prune::column_stats_(shared, view(x, 2)); }), "statistics in one place");

  std::array<float, 2> w = {1, 4};
  std::array<float, 4> u = {0.5F, 1, 0, 1};
  std::array<std::uint8_t, 2> mask = {};
  std::array<float, 2> err = {};
  prune::obs_block_(view(w, 1), view(u, 2), view(mask, 1), {.k = 1}, view(err, 1));
  check(w == std::array<float, 2>{0, 2} && err == std::array<float, 2>{2, 0}, "obs_block_");
  prune::obs_prune_(view(w, 1), view(u, 2), view(mask, 1),
                    {.nm = prune::NmPattern{1, 2}, .block = INT64_MAX});
  check(mask == std::array<std::uint8_t, 2>{0, 1}, "obs_prune_");
  prune::dsnot_rows_(view(mask, 1), view(w, 1), stats, {});
  check(mask[0] + mask[1] == 1, "dsnot_rows_");
  std::array<float, 2> squares = {4, 0}, out = {};
  prune::channel_threshold(view(squares), 1, view(out));
  check(out[0] == 0.5F && std::isinf(out[1]), "channel_threshold");
  prune::cett_threshold(view(u, 2), 1, view(out));
  check(out[0] == 2 && out[1] == static_cast<float>(1 / std::sqrt(2.0)), "cett_threshold");
}

void weights_are_shrunk() {
  std::array<float, 2> w = {3, -4}, g = {1, 1}, gamma = {0, 2}, grad = {};
  std::array<std::uint8_t, 2> mask = {1, 0};
  prune::soft_threshold_(view(w), 1);
  check(w == std::array<float, 2>{2, -3}, "soft_threshold_");
  w = {3, 4};
  prune::group_soft_threshold_(view(w), 2.5, {});
  check(w == std::array<float, 2>{1.5F, 2}, "group_soft_threshold_");
  prune::sef_prox_(view(w), 0, 1, {.kind = prune::Groups::Kind::runs, .length = 1});
  check(w[1] == 2, "sef_prox_");
  prune::srste_grad_(view(g), view(w), view(mask), 0.5);
  check(g == std::array<float, 2>{1, 2}, "srste_grad_");
  prune::shrink_(view(w), view(mask), 0.5);
  check(w[1] == 1, "shrink_");
  prune::l0_project_(view(w), 1, view(mask));
  check(mask == std::array<std::uint8_t, 2>{1, 0} && w[1] == 0, "l0_project_");
  check(prune::polarization(view(gamma), 1, 1, view(grad)) == 0, "polarization");
}

// A = [1 0]
//     [2 3]
struct Example {
  std::array<std::int32_t, 3> indptr = {0, 1, 3};
  std::array<std::int32_t, 4> indices = {0, 0, 1, -7};  // with room for one entry more
  std::array<float, 4> values = {1, 2, 3, -7};

  Csr csr() {
    return Csr(view(indptr), make_view(indices.data(), DType::i32, {3}),
               make_view(values.data(), DType::f32, {3}), 2, 2);
  }
};

void diagnostics_count() {
  Example example;
  const Csr a = example.csr();
  std::array<std::int64_t, 2> counts = {};
  prune::nnz_stats(a, {.rows = 1}, view(counts));
  check(counts == std::array<std::int64_t, 2>{1, 2}, "nnz_stats of a CSR");
  std::array<float, 4> dense = {1, 0, 2, 3};
  prune::nnz_stats(view(dense, 2), {.cols = INT64_MAX}, make_view(counts.data(), DType::i64, {1}));
  check(counts[0] == 3, "nnz_stats of an array");
  const gossamer::Bsr blocks(make_view(example.indptr.data(), DType::i32, {2}),
                             make_view(example.indices.data(), DType::i32, {1}),
                             make_view(dense.data(), DType::f32, {1, 2, 2}), 2, 2);
  prune::nnz_stats(blocks, {}, make_view(counts.data(), DType::i64, {}));
  check(counts[0] == 3, "nnz_stats of a BSR");
  std::array<float, 3> mean = {};
  const std::array<Csr, 2> soup = {a, a};
  prune::mean_same_pattern(soup, view(mean));
  check(mean == std::array<float, 3>{1, 2, 3}, "mean_same_pattern");
  Mask fired = {1, 0, 0, 0}, mask = {0, 0, 1, 0};
  check(prune::coverage_or_(view(fired), view(mask)) == 2, "coverage_or_");

  std::array<float, 3> edges = {};
  std::array<float, 2> sums = {};
  graph::edge_score(a, view(edges));
  check(std::isinf(edges[0]) && edges[1] > 0, "edge_score");
  graph::strength(a, 0, view(sums));
  check(sums == std::array<float, 2>{3, 3}, "strength");
  graph::row_sum(a, std::nullopt, view(sums), 2.0);
  check(sums == std::array<float, 2>{1, 4}, "row_sum without values, squared");
  graph::row_max(a, a.values(), view(sums));
  check(sums == std::array<float, 2>{1, 3}, "row_max");
  graph::scale_rows_cols(a, std::nullopt, view(sums), std::nullopt, view(edges));
  check(edges == std::array<float, 3>{1, 3, 3}, "scale_rows_cols");
}

void masks_regrow() {
  std::array<float, 4> drop = {1, 2, 0, 0}, grow = {0, 0, 5, 6}, w = {1, 2, 0, 0};
  Mask mask = {1, 1, 0, 0};
  const regrow::MaskRegrowth chosen(view(mask), {.w = view(drop), .kind = prune::ScoreKind::value},
                                    prune::Score{.w = view(grow), .kind = prune::ScoreKind::value},
                                    1, 1, {});
  std::array<std::int64_t, 1> places = {};
  check(chosen.fresh() == 1, "fresh places");
  const std::array<regrow::Followed, 1> arrays = {
      regrow::Followed{.array = view(w), .value = 0.5, .clears = true}};
  chosen.apply(view(mask), arrays, view(places));
  check(mask == Mask{0, 1, 0, 1} && places[0] == 3, "MaskRegrowth");
  check(w == std::array<float, 4>{0, 2, 0, 0.5F}, "arrays that follow a mask");
  const std::array<regrow::Followed, 1> itself = {
      regrow::Followed{.array = view(w), .source = view(w)}};
  check(refuses([&] { chosen.apply(view(mask), itself, view(places)); }), "values from itself");
  std::array<float, 4> values = {0.1F, -3, 2, -0.2F};
  regrow::set_drop(view(values), 1, 1, view(mask));
  check(mask == Mask{0, 1, 1, 0}, "set_drop");
}

void matrices_regrow() {
  Example example;
  const TensorView room = view(example.indices), values = view(example.values);
  const auto structure = regrow::RowStructure(example.csr()).with_room(room);
  check(structure.nnz() == 3 && structure.rows() == 2 && structure.cols() == 2, "RowStructure");
  std::array<float, 4> grow = {0, 9, 0, 0};
  std::array<float, 3> drop = {5, 1, 6};
  const prune::Score drops{.w = view(drop), .kind = prune::ScoreKind::value};
  const prune::Score grows{.w = view(grow, 2), .kind = prune::ScoreKind::value};
  check(regrow::entries_after(structure, 1, 1) == 3, "entries_after");
  check(refuses([&] { static_cast<void>(regrow::entries_after(structure, 0, INT64_MAX)); }),
        "more entries than there is room for");
  std::array<std::int32_t, 3> src = {};
  const std::array<regrow::Followed, 1> arrays = {regrow::Followed{.array = values, .value = 4}};
  regrow::csr_drop_grow_(structure, drops, grows, 1, 1, {}, arrays, view(src));
  check(src == std::array<std::int32_t, 3>{0, -1, 2}, "csr_drop_grow_ tells whence");
  check(example.indptr == std::array<std::int32_t, 3>{0, 2, 3} &&
            example.indices == std::array<std::int32_t, 4>{0, 1, 1, -7} &&
            example.values == std::array<float, 4>{1, 4, 3, -7},
        "csr_drop_grow_");
  std::array<float, 4> norms = {};
  regrow::block_norms(view(grow, 4), view(norms));
  check(norms[1] == 9, "block_norms");

  // What a structure may not be.
  std::array<std::int32_t, 3> falls = {0, 2, 1}, beyond = {0, 1, 9};
  std::array<std::int32_t, 3> columns = {0, 1, 7};
  check(refuses([&] { regrow::RowStructure(view(falls), room, 2, 2); }), "indptr that falls");
  check(refuses([&] { regrow::RowStructure(view(beyond), room, 2, 2); }), "indptr beyond indices");
  check(refuses([&] { regrow::RowStructure(view(example.indptr), view(columns), 2, 2); }),
        "a column beyond the matrix");
  check(refuses([&] { static_cast<void>(structure.with_room(view(columns))); }), "another array");
}

}  // namespace

int main() {
  scores_are_evaluated();
  selections_are_exact();
  selections_of_several_processes_are_asked_in_order();
  patterns_hold();
  layers_are_pruned();
  weights_are_shrunk();
  diagnostics_count();
  masks_regrow();
  matrices_regrow();
}
