#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>

#include "base/separate.h"
#include "gossamer/detail/column_order.h"
#include "gossamer/detail/mask_checks.h"
#include "prune/select/operands.h"

namespace gossamer::detail {

std::int64_t mask_bytes(std::int64_t n, prune::MaskFormat format) {
  return format == prune::MaskFormat::bytes ? n : (n + 7) / 8;
}

void check_within(const Checker& check, const Argument& within, const TensorView& score) {
  check.mask(within);
  check.device(within, score.device, "score");
  check.same_shape(within, {"score", score});
  check.contiguous(within);
}

void check_selected(const Checker& check, const Argument& out, const prune::Score& score,
                    prune::MaskFormat format) {
  if (format == prune::MaskFormat::bytes) return check_mask_out(check, out, score);
  check.dtype(out, DType::u8, "a packed mask");
  check.device(out, score.w.device, "score");
  check.shape(out, {mask_bytes(score.w.numel(), format)});
  check.contiguous(out);
  check_apart(check, out, score);
}

void reads(Separate& apart, const std::string& name, const prune::Score& score) {
  const bool alone = score.kind == prune::ScoreKind::value;
  apart.reads(alone ? name : "w of " + name, score.w);
  if (score.g) apart.reads("g of " + name, *score.g);
  if (score.m) apart.reads("m of " + name, *score.m);
  if (score.v) apart.reads("v of " + name, *score.v);
  if (score.col) apart.reads("col of " + name, *score.col);
}

namespace {

std::string indexed(const char* name, std::size_t i, std::size_t count) {
  return count == 1 ? name : std::string(name) + "[" + std::to_string(i) + "]";
}

/// There are as many arrays as scores.
void check_count(const Checker& check, const char* name, std::size_t got, std::size_t scores) {
  if (got == scores) return;
  check.value_error("len(" + std::string(name) + ") is " + std::to_string(got) +
                    ", expected len(score) = " + std::to_string(scores));
}

}  // namespace

std::int64_t check_topk_list(const Checker& check, std::span<const prune::Score> scores,
                             std::int64_t k, prune::MaskFormat format,
                             std::span<const TensorView> within, std::span<const TensorView> outs) {
  const std::size_t count = scores.size();
  if (!within.empty()) check_count(check, "within", within.size(), count);
  check_count(check, "out", outs.size(), count);
  std::int64_t total = 0;
  Separate apart(check);
  for (std::size_t i = 0; i < count; ++i) {
    check_score(check, scores[i]);
    const std::string within_name = indexed("within", i, count);
    const std::string out_name = indexed("out", i, count);
    if (!within.empty()) check_within(check, {within_name.c_str(), within[i]}, scores[i].w);
    check_selected(check, {out_name.c_str(), outs[i]}, scores[i], format);
    if (dtype_of(scores[i]) != dtype_of(scores[0])) {
      check.type_error(indexed("score", i, count) + " is compared in " +
                       name_of(dtype_of(scores[i])) + ", expected that of score[0], " +
                       name_of(dtype_of(scores[0])));
    }
    total += scores[i].w.numel();
    reads(apart, indexed("score", i, count), scores[i]);
    if (!within.empty()) apart.reads(within_name, within[i]);
    apart.writes(out_name, outs[i]);
  }
  apart.check();
  if (k < 0 || k > total) {
    check.value_error("k is " + text_of(k) + ", expected 0 to " + text_of(total));
  }
  return total;
}

void check_kth_results(const Checker& check, const prune::Score& score, std::int64_t count,
                       const TensorView& threshold, const TensorView& n_strict,
                       const TensorView& n_tie) {
  check.dtype({"threshold", threshold}, dtype_of(score), "score");
  check.dtype({"n_strict", n_strict}, DType::i64, "a count");
  check.dtype({"n_tie", n_tie}, DType::i64, "a count");
  Separate apart(check);
  reads(apart, "score", score);
  for (const Argument& x : {Argument{"threshold", threshold}, Argument{"n_strict", n_strict},
                            Argument{"n_tie", n_tie}}) {
    check.device(x, score.w.device, "score");
    check.shape(x, {count});
    check.contiguous(x);
    check.writable(x, {});
    apart.writes(x.name, x.view);
  }
  apart.check();
}

void check_kth(const Checker& check, const prune::Score& score, std::int64_t k) {
  check_score(check, score);
  const std::int64_t n = score.w.numel();
  if (k < 1 || k > n) check.value_error("k is " + text_of(k) + ", expected 1 to " + text_of(n));
}

void check_open(const Checker& check, const prune::Selection& selection, const char* what) {
  if (selection.done()) {
    check.value_error(std::string(what) + " is called after done, expected emit");
  }
}

void check_done(const Checker& check, const prune::Selection& selection, const char* what) {
  if (!selection.done()) {
    check.value_error(std::string(what) +
                      " is asked for before done, expected more rounds of histogram and narrow");
  }
}

void check_part(const Checker& check, const prune::Selection& selection,
                const prune::Score& score) {
  check_score(check, score);
  const DType own = key_type(score), type = selection.state().dtype;
  if (own != type && dtype_of(score) != type) {
    check.type_error(std::string("score is compared in ") + name_of(own) +
                     ", expected the selection's dtype = " + name_of(type));
  }
}

void check_bins(const Checker& check, std::size_t size) {
  if (size == static_cast<std::size_t>(prune::Selection::kCounts)) return;
  check.value_error("counts.shape is (" + std::to_string(size) + ",), expected (4096,)");
}

std::int64_t check_emit(const Checker& check, const prune::Selection& selection,
                        const prune::Score& score, std::int64_t ties_before,
                        const TensorView& out) {
  const prune::Selection::State& state = selection.state();
  check_done(check, selection, "emit");
  const std::int64_t most = state.inside.value_or(0);
  if (ties_before < 0 || ties_before > most) {
    check.value_error("ties_before is " + std::to_string(ties_before) + ", expected 0 to " +
                      std::to_string(most) + ", the entries that equal the threshold");
  }
  check_part(check, selection, score);
  check_selected(check, {"out", out}, score, state.options.format);
  return std::max<std::int64_t>(0, state.k - state.above - ties_before);
}

void check_topk_rows(const Checker& check, const TensorView& x, std::int64_t k,
                     const std::optional<TensorView>& key, const TensorView& values,
                     const TensorView& indices) {
  check.rank({"x", x}, {2});
  check.floating({"x", x});
  check.device({"x", x}, x.device, "x");
  check.layout({"x", x});
  const TensorView& order = key ? *key : x;
  if (key) {
    check.rank({"key", order}, {2});
    check.floating({"key", order});
    check.device({"key", order}, x.device, "x");
    check.shape({"key", order}, {x.shape[0], x.shape[1]});
    check.layout({"key", order});
  }
  const std::int64_t rows = x.shape[0], cols = x.shape[1];
  if (k < 0 || k > cols) {
    check.value_error("k is " + text_of(k) + ", expected 0 to " + text_of(cols));
  }
  if (cols > INT32_MAX) {
    check.value_error("x.shape[1] is " + text_of(cols) + ", expected at most 2147483647");
  }
  check.dtype({"values", values}, x.dtype, "x");
  check.dtype({"indices", indices}, DType::i32, "an index");
  for (const Argument& out : {Argument{"values", values}, Argument{"indices", indices}}) {
    check.device(out, x.device, "x");
    check.shape(out, {rows, k});
    check.contiguous(out);
    check.writable(out, {{"x", x}, {"key", order}});
  }
  check.writable({"indices", indices}, {{"values", values}});
}

std::int64_t check_random_mask(const Checker& check, std::int64_t k,
                               const std::optional<TensorView>& within, const TensorView& out,
                               const prune::Part& part) {
  const Argument result{"out", out};
  check.mask(result);
  check.device(result, out.device, "out");
  check.contiguous(result);
  check.writable(result, {});
  const std::int64_t n = out.numel();
  const std::int64_t first = part.offset;
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  if (part.total && *part.total < n) {
    check.value_error("total is " + text_of(*part.total) + ", expected at least " + text_of(n));
  }
  const std::int64_t last = part.total.value_or(kMost) - n;
  if (first < 0 || first > last) {
    check.value_error("offset is " + text_of(first) + ", expected 0 to total - " + text_of(n) +
                      " = " + text_of(last));
  }
  const std::int64_t total = part.total.value_or(first + n);
  if (within) {
    if (total != n) check.value_error("within is given for a part of a mask, expected None");
    const Argument allowed{"within", *within};
    check.mask(allowed);
    check.device(allowed, out.device, "out");
    check.same_shape(allowed, result);
    check.contiguous(allowed);
    check.writable(result, {allowed});
  } else {
    check_drawn(check, k, total, false);
    // Each element is drawn: more than a trillion would take hours, and memory for their counts.
    constexpr std::int64_t kMostDrawn = std::int64_t{1} << 40;
    if (total > kMostDrawn && k != 0 && k != total) {
      check.value_error("total is " + text_of(total) + ", expected at most " + text_of(kMostDrawn));
    }
  }
  return total;
}

void check_drawn(const Checker& check, std::int64_t k, std::int64_t candidates, bool within) {
  if (k >= 0 && k <= candidates) return;
  check.value_error("k is " + text_of(k) + ", expected 0 to " + text_of(candidates) +
                    (within ? ", the entries of within" : ""));
}

DType key_type(const prune::Score& score) noexcept {
  return is_direct(score) ? score.w.dtype : dtype_of(score);
}

DType key_type(std::span<const prune::Score> scores) noexcept {
  std::optional<DType> type;
  for (const prune::Score& score : scores) {
    const DType own = key_type(score);
    type = !type || *type == own ? own : dtype_of(score);
  }
  return type.value_or(DType::f32);
}

Bounds::Bounds(const Checker& check, const prune::Segments& segments, std::int64_t n)
    : offsets_(segments.offsets), length_(segments.length), n_(n) {
  if (offsets_.empty()) {
    if (length_ < 1) check.value_error("per is " + text_of(length_) + ", expected at least 1");
    length_ = std::min(length_, std::max<std::int64_t>(n, 1));
    return;
  }
  const bool ordered = std::is_sorted(offsets_.begin(), offsets_.end());
  if (offsets_.front() != 0 || offsets_.back() != n || !ordered) {
    check.value_error("per runs from " + text_of(offsets_.front()) + " to " +
                      text_of(offsets_.back()) + (ordered ? "" : " and falls") +
                      ", expected increasing offsets from 0 to " + text_of(n));
  }
}

Axes axes_of(const Checker& check, const Argument& x, int axis) {
  const TensorView& view = x.view;
  if (view.rank == 0) check.value_error(std::string(x.name) + ".ndim is 0, expected at least 1");
  const int at = axis < 0 ? axis + view.rank : axis;
  if (at < 0 || at >= view.rank) {
    check.value_error("axis is " + std::to_string(axis) + ", expected -" +
                      std::to_string(view.rank) + " to " + std::to_string(view.rank - 1));
  }
  Axes axes;
  for (int d = 0; d < view.rank; ++d) {
    const std::int64_t extent = view.shape[static_cast<std::size_t>(d)];
    (d < at ? axes.parts : d == at ? axes.length : axes.cols) *= extent;
  }
  return axes;
}

void check_nm_sizes(const Checker& check, std::int64_t n, std::int64_t m) {
  if (m < 1) check.value_error("m is " + std::to_string(m) + ", expected at least 1");
  if (n < 0 || n > m) {
    check.value_error("n is " + std::to_string(n) + ", expected 0 to m = " + std::to_string(m));
  }
}

namespace {

constexpr std::int64_t kMostOfGroup = 64;

void check_multiple(const Checker& check, const prune::Score& score, int axis, std::int64_t of,
                    const char* name) {
  const std::int64_t extent = score.w.shape[static_cast<std::size_t>(axis)];
  if (extent % of == 0) return;
  check.value_error("score.shape[" + std::to_string(axis) + "] is " + std::to_string(extent) +
                    ", expected a multiple of " + name + " = " + std::to_string(of));
}

}  // namespace

void check_transposable(const Checker& check, const prune::Score& score, std::int64_t n,
                        std::int64_t m, const TensorView& out) {
  check_score(check, score);
  check.rank({"score", score.w}, {2});
  check_nm_sizes(check, n, m);
  if (m > kMostOfGroup) check.value_error("m is " + std::to_string(m) + ", expected at most 64");
  check_multiple(check, score, 0, m, "m");
  check_multiple(check, score, 1, m, "m");
  check_mask_out(check, {"out", out}, score);
}

void check_permutation(const Checker& check, const prune::Score& score, std::int64_t n,
                       std::int64_t m, const prune::PermutationOptions& options,
                       const TensorView& perm) {
  check_score(check, score);
  check.rank({"w", score.w}, {2});
  check_nm_sizes(check, n, m);
  if (m > 64) check.value_error("m is " + std::to_string(m) + ", expected at most 64");
  if (options.method != prune::PermutationMethod::swap && m != 4) {
    check.value_error(
        std::string("method is '") +
        (options.method == prune::PermutationMethod::stripe8 ? "stripe8" : "stripe12") +
        "', expected 'swap' for m = " + std::to_string(m));
  }
  if (options.escapes < 0) {
    check.value_error("escapes is " + std::to_string(options.escapes) + ", expected at least 0");
  }
  const std::int64_t cols = score.w.shape[1];
  if (cols % m != 0) {
    check.value_error("w.shape[1] is " + std::to_string(cols) +
                      ", expected a multiple of m = " + std::to_string(m));
  }
  constexpr std::int64_t kMostColumns = std::numeric_limits<std::int32_t>::max();
  if (cols > kMostColumns) {
    check.value_error("w.shape[1] is " + std::to_string(cols) + ", expected at most " +
                      std::to_string(kMostColumns));
  }
  const Argument result{"perm", perm};
  check.dtype(result, DType::i32, "an index");
  check.device(result, score.w.device, "w");
  check.shape(result, {cols});
  check.contiguous(result);
  check_apart(check, result, score);
}

void check_vnm_mask(const Checker& check, const prune::Score& score, std::int64_t v, std::int64_t n,
                    std::int64_t m, const TensorView& out) {
  check_score(check, score);
  check.rank({"score", score.w}, {2});
  if (v < 1) check.value_error("v is " + std::to_string(v) + ", expected at least 1");
  if (n < 0 || n > 4) check.value_error("n is " + std::to_string(n) + ", expected 0 to 4");
  if (m < 4 || m > kMostOfGroup)
    check.value_error("m is " + std::to_string(m) + ", expected 4 to 64");
  check_multiple(check, score, 0, v, "v");
  check_multiple(check, score, 1, m, "m");
  check_mask_out(check, {"out", out}, score);
}

Axes check_nm_groups(const Checker& check, const TensorView& x, std::int64_t n, std::int64_t m,
                     int axis) {
  check.device({"x", x}, x.device, "x");
  const Axes axes = axes_of(check, {"x", x}, axis);
  check_nm_sizes(check, n, m);
  check.contiguous({"x", x});
  return axes;
}

Axes check_nm_mask(const Checker& check, const prune::Score& score, std::int64_t n, std::int64_t m,
                   const prune::NmOptions& options, const TensorView& out) {
  check_score(check, score);
  const Axes whole = axes_of(check, {"score", score.w}, options.axis);
  check_nm_sizes(check, n, m);
  const std::int64_t rest = whole.length % m;
  if (rest != 0 && options.tail == prune::Tail::error) {
    const int axis = options.axis < 0 ? options.axis + score.w.rank : options.axis;
    check.value_error(
        "score.shape[" + std::to_string(axis) + "] is " + std::to_string(whole.length) +
        ", expected a multiple of m = " + std::to_string(m) + ", or tail 'keep' or 'pad'");
  }
  check_mask_out(check, {"out", out}, score);
  return whole;
}

namespace {

/// The block, no larger than a matrix of rows x cols.
prune::BlockShape clipped(const Checker& check, prune::BlockShape block, std::int64_t rows,
                          std::int64_t cols) {
  if (block.rows < 1 || block.cols < 1) {
    check.value_error("block is (" + std::to_string(block.rows) + ", " +
                      std::to_string(block.cols) + "), expected at least (1, 1)");
  }
  return {.rows = std::min(block.rows, std::max<std::int64_t>(rows, 1)),
          .cols = std::min(block.cols, std::max<std::int64_t>(cols, 1))};
}

std::int64_t blocks_in(std::int64_t extent, std::int64_t side) {
  return (extent + side - 1) / side;
}

}  // namespace

prune::BlockShape check_block_pool(const Checker& check, const prune::Score& score,
                                   prune::BlockShape block, const TensorView& out) {
  check_score(check, score);
  check.rank({"score", score.w}, {2});
  const std::int64_t rows = score.w.shape[0], cols = score.w.shape[1];
  block = clipped(check, block, rows, cols);
  const Argument result{"out", out};
  check.dtype(result, dtype_of(score), "score");
  check.device(result, score.w.device, "score");
  check.shape(result, {blocks_in(rows, block.rows), blocks_in(cols, block.cols)});
  check.contiguous(result);
  check_apart(check, result, score);
  return block;
}

prune::BlockShape check_expand_blocks(const Checker& check, const TensorView& mask,
                                      prune::BlockShape block, const TensorView& out) {
  for (const Argument& x : {Argument{"mask", mask}, Argument{"out", out}}) {
    check.mask(x);
    check.device(x, mask.device, "mask");
    check.rank(x, {2});
    check.contiguous(x);
  }
  block = clipped(check, block, out.shape[0], out.shape[1]);
  check.shape({"mask", mask},
              {blocks_in(out.shape[0], block.rows), blocks_in(out.shape[1], block.cols)});
  check.writable({"out", out}, {{"mask", mask}});
  return block;
}

void refuse_nan(const Checker& check, std::int64_t nans, const char* name) {
  if (nans == 0) return;
  check.value_error(std::string(name) + " has " + text_of(nans) + " NaN, expected none");
}

}  // namespace gossamer::detail
