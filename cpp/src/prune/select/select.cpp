// The public selections: checks, and the choice of method. Arrays and long segments go to
// selector.cpp, shorter segments to the kernel select_segment, segments of at most 256 elements to
// select_groups, random masks to random_select.cpp (docs/selection.md).

#include "gossamer/prune/select.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/bits.h"
#include "base/buffer.h"
#include "base/floats.h"
#include "base/pool.h"
#include "base/scratch.h"
#include "gossamer/detail/check.h"
#include "prune/score/kernels.h"
#include "prune/select/kernels.h"
#include "prune/select/random_select.h"
#include "prune/select/selector.h"

namespace gossamer::prune {
using namespace detail;
namespace {

constexpr std::int64_t kPiece = 65536;

std::string number(std::int64_t n) { return std::to_string(n); }

std::string indexed(const char* name, std::size_t i, std::size_t count) {
  return count == 1 ? name : std::string(name) + "[" + std::to_string(i) + "]";
}

bool is_mask(DType type) { return type == DType::boolean || type == DType::u8; }

void check_mask_type(const Checker& check, const Argument& mask) {
  if (is_mask(mask.view.dtype)) return;
  check.type_error(std::string(mask.name) + ".dtype is " + name_of(mask.view.dtype) +
                   ", expected bool or uint8");
}

void check_like(const Checker& check, const Argument& x, const TensorView& score) {
  const TensorView& view = x.view;
  if (view.rank != score.rank ||
      !std::equal(view.shape.begin(), view.shape.begin() + view.rank, score.shape.begin())) {
    check.value_error(std::string(x.name) + ".shape is " + shape_string(view) +
                      ", expected score.shape = " + shape_string(score));
  }
  if (!is_contiguous(view)) {
    check.value_error(std::string(x.name) + " is strided, expected a contiguous array");
  }
}

void check_within(const Checker& check, const Argument& within, const TensorView& score) {
  check_mask_type(check, within);
  check.device(within, score.device, "score");
  check_like(check, within, score);
}

void check_out(const Checker& check, const Argument& out, const Score& score, MaskFormat format,
               const TensorView* within) {
  check.device(out, score.w.device, "score");
  if (format == MaskFormat::bytes) {
    check_mask_type(check, out);
    check_like(check, out, score.w);
  } else {
    check.dtype(out, DType::u8, "a packed mask");
    check.shape(out, {(score.w.numel() + 7) / 8});
    check.layout(out);
  }
  check.writable(out, {{"score", score.w}});
  for (const auto& x : {score.g, score.m, score.v, score.col}) {
    if (x) check.writable(out, {{"an operand of score", *x}});
  }
  if (within != nullptr) check.writable(out, {{"within", *within}});
}

/// Segments of at most kSegment elements are each selected from by one thread, in its core's cache.
/// A task has at least kTask elements.
constexpr std::int64_t kSegment = 65536;
constexpr std::int64_t kTask = 32768;

/// How many elements a task has: enough that its first segment, for which there is no guess, costs
/// little; few enough that all threads have tasks.
std::int64_t task_size(std::int64_t n) { return std::clamp<std::int64_t>(n / 64, kTask, 1 << 19); }

int packing_of(MaskFormat format) { return static_cast<int>(format); }

std::int64_t mask_bytes(std::int64_t n, MaskFormat format) {
  return format == MaskFormat::bytes ? n : (n + 7) / 8;
}

void check_nans(const Checker& check, const SelectOptions& options,
                const std::vector<SelectPart>& parts) {
  if (options.nan != Nan::error) return;
  const std::int64_t nans = count_nans(parts);
  if (nans != 0) check.value_error("score has " + number(nans) + " NaN, expected none");
}

/// Marks all n elements (`all`), or none.
void fill(std::uint8_t* out, std::int64_t n, bool all, MaskFormat format) {
  if (n == 0) return;
  const bool bytes = format == MaskFormat::bytes;
  std::memset(out, !all ? 0 : bytes ? 1 : 0xff, static_cast<std::size_t>(mask_bytes(n, format)));
  if (all && !bytes && n % 8 != 0) {
    const int rest = static_cast<int>(n % 8), low = (1 << rest) - 1;
    out[n / 8] = static_cast<std::uint8_t>(format == MaskFormat::little ? low : low << (8 - rest));
  }
}

std::uint8_t* bytes_of(const TensorView& mask) { return static_cast<std::uint8_t*>(mask.data); }

/// The bounds of the segments.
class Bounds {
 public:
  Bounds(const Checker& check, const Segments& segments, std::int64_t n)
      : offsets_(segments.offsets), length_(segments.length), n_(n) {
    if (offsets_.empty()) {
      if (length_ < 1) check.value_error("per is " + number(length_) + ", expected at least 1");
      return;
    }
    const bool ordered = std::is_sorted(offsets_.begin(), offsets_.end());
    if (offsets_.front() != 0 || offsets_.back() != n || !ordered) {
      check.value_error("offsets run from " + number(offsets_.front()) + " to " +
                        number(offsets_.back()) + (ordered ? "" : " and fall") +
                        ", expected increasing ones from 0 to " + number(n));
    }
  }

  [[nodiscard]] std::int64_t count() const {
    return offsets_.empty() ? (n_ + length_ - 1) / length_
                            : static_cast<std::int64_t>(offsets_.size()) - 1;
  }
  [[nodiscard]] std::int64_t at(std::int64_t s) const {
    return offsets_.empty() ? std::min(s * length_, n_) : offsets_[static_cast<std::size_t>(s)];
  }
  /// Whether all segments but the last have the same length.
  [[nodiscard]] bool alike() const { return offsets_.empty(); }

 private:
  std::span<const std::int64_t> offsets_;
  std::int64_t length_, n_;
};

/// Runs over all segments. First calls whole(segment) for the long ones, one after the other, since
/// each uses all threads. Then calls in_cache(segment, guess) for the others, many to a task; the
/// guess is handed from segment to segment within the task.
class SegmentPlan {
 public:
  SegmentPlan(const Bounds& bounds, std::span<const std::int64_t> k) : bounds_(bounds), k_(k) {}

  [[nodiscard]] std::int64_t count() const { return bounds_.count(); }
  [[nodiscard]] std::int64_t at(std::int64_t s) const { return bounds_.at(s); }
  [[nodiscard]] std::int64_t length(std::int64_t s) const { return at(s + 1) - at(s); }
  [[nodiscard]] std::int64_t k(std::int64_t s) const {
    return k_[k_.size() == 1 ? 0 : static_cast<std::size_t>(s)];
  }

  template <class Short, class Long>
  void run(Short&& in_cache, Long&& whole) const {
    for (std::int64_t s = 0; s < count(); ++s) {
      if (length(s) > kSegment) whole(s);
    }
    std::vector<std::int64_t> tasks = {0};
    const std::int64_t size = task_size(at(count()));
    for (std::int64_t s = 1, begin = 0; s <= count(); ++s) {
      // A segment costs as much as 64 elements, beside those that it has.
      if (s < count() && at(s) - at(begin) + 64 * (s - begin) < size) continue;
      tasks.push_back(s);
      begin = s;
    }
    parallel_for(static_cast<std::int64_t>(tasks.size()) - 1, [&](std::int64_t task) {
      SegmentGuess guess = {};
      for (std::int64_t s = tasks[static_cast<std::size_t>(task)];
           s < tasks[static_cast<std::size_t>(task) + 1]; ++s) {
        if (length(s) <= kSegment) in_cache(s, guess);
      }
    });
  }

  void check_k(const Checker& check, std::int64_t least, const std::uint8_t* within) const {
    if (k_.size() != 1 && static_cast<std::int64_t>(k_.size()) != count()) {
      check.value_error("k.shape is (" + number(static_cast<std::int64_t>(k_.size())) +
                        ",), expected one k or one for each of " + number(count()) + " segments");
    }
    // Where all have the same length and k, checking the first and the last is enough.
    const bool alike = bounds_.alike() && k_.size() == 1 && within == nullptr;
    for (std::int64_t s = 0; s < count(); s = alike ? std::max(s + 1, count() - 1) : s + 1) {
      const std::int64_t most =
          within == nullptr ? length(s) : count_nonzero_of(within + at(s), length(s));
      if (k(s) >= least && k(s) <= most) continue;
      check.value_error(
          (k_.size() == 1 ? "k" : "k[" + number(s) + "]") + " is " + number(k(s)) + ", expected " +
          number(least) + " to " + number(most) +
          (within == nullptr ? ", the length of segment " : ", the entries of within in segment ") +
          number(s));
    }
  }

 private:
  Bounds bounds_;
  std::span<const std::int64_t> k_;
};

/// The column factors of a Wanda score. select_segment multiplies by them itself, so that the
/// scores are not stored anywhere. Empty for other scores.
class Factors {
 public:
  Factors() = default;
  explicit Factors(const Score& score) : type_(score.w.dtype) {
    if (score.kind != ScoreKind::wanda || score.scale != 1.0 || type_ == DType::f64) return;
    data_ = static_cast<const std::byte*>(score.w.data);
    factor_ = Buffer<float>(score.col->shape[0]);
    score_kernels().score_factor({.x = score.col->data,
                                  .type = score.col->dtype,
                                  .count = score.col->shape[0],
                                  .root = true,
                                  .out = factor_.data(),
                                  .f64 = false});
  }

  [[nodiscard]] DType type() const { return type_; }
  /// Where the elements from `first` on lie. of() returns their factors; null where there are none,
  /// or where the range goes on in another row.
  [[nodiscard]] const void* data(std::int64_t first) const {
    return data_ + first * size_of(type_);
  }
  [[nodiscard]] const float* of(std::int64_t first, std::int64_t count) const {
    if (data_ == nullptr || first % factor_.size() + count > factor_.size()) return nullptr;
    return factor_.data() + first % factor_.size();
  }

 private:
  DType type_ = DType::f32;
  const std::byte* data_ = nullptr;
  Buffer<float> factor_;
};

/// Where a selection is written as lists, and the array that the values are taken from.
struct Taken {
  std::int32_t* indices = nullptr;
  const void* from = nullptr;
  void* values = nullptr;
  std::int64_t item = 0;
};

/// The k-th key of a segment of at most kSegment elements. Marks in `mask`, or writes the lists of
/// `taken`, where they are given.
KeyRank select_short(const KeyStream& keys, const Factors& factors, std::int64_t first,
                     std::int64_t count, const std::uint8_t* within, std::int64_t k, Tie tie,
                     std::uint8_t* mask, const Taken& taken, SegmentGuess& guess) {
  const Scratch scratch(segment_scratch(count, keys.item() == 8 ? 8 : 4));
  const float* factor = factors.of(first, count);
  const bool whole = factor == nullptr && !keys.direct();
  const Scratch evaluated(whole ? count * keys.item() : 0);
  const KeySource source{
      keys.order(),
      factor != nullptr ? factors.data(first) : keys.fetch(first, count, evaluated.data()),
      within != nullptr ? within + first : nullptr, count};
  KeyRank found;
  select_kernels().select_segment({.source = source,
                                   .factor = factor,
                                   .type = factors.type(),
                                   .k = k,
                                   .tie_high = tie == Tie::high,
                                   .scratch = scratch.data(),
                                   .mask = mask,
                                   .indices = taken.indices,
                                   .from = taken.from,
                                   .values = taken.values,
                                   .item = taken.item,
                                   .guess = &guess,
                                   .threshold = &found.key,
                                   .strict = &found.above,
                                   .equal = &found.equal});
  return found;
}

/// Marks k entries in each segment of `length` ≤ kGroupLength of n entries.
void select_groups(const KeyStream& keys, std::int64_t n, std::int64_t length,
                   std::span<const std::int64_t> k, Tie tie, std::uint8_t* mask) {
  const std::int64_t together = 64 * length;  // the kernel takes up to 64 segments side by side
  const std::int64_t size = keys.direct() ? task_size(n) : kTask;
  const std::int64_t step = std::max<std::int64_t>(1, size / together) * together;
  parallel_for((n + step - 1) / step, [&](std::int64_t task) {
    const std::int64_t first = task * step, count = std::min(step, n - first);
    const Scratch evaluated(keys.direct() ? 0 : count * keys.item());
    select_kernels().select_groups(
        {.source = {keys.order(), keys.fetch(first, count, evaluated.data()), nullptr, count},
         .length = length,
         .k = k.data() + (k.size() == 1 ? 0 : first / length),
         .one_k = k.size() == 1,
         .tie_high = tie == Tie::high,
         .mask = mask + first});
  });
}

/// Packs bytes that are 0 or 1 into bits.
void pack_bytes(const std::uint8_t* bytes, std::int64_t n, std::uint8_t* out, MaskFormat format) {
  parallel_for((n + kSegment - 1) / kSegment, [&](std::int64_t task) {
    const std::int64_t end = std::min(n, (task + 1) * kSegment);
    for (std::int64_t i = task * kSegment; i < end; i += 8) {
      int bits = 0;
      for (std::int64_t e = 0; e < std::min<std::int64_t>(8, end - i); ++e) {
        const int place = static_cast<int>(format == MaskFormat::little ? e : 7 - e);
        bits |= static_cast<int>(bytes[i + e]) << place;
      }
      out[i / 8] = static_cast<std::uint8_t>(bits);
    }
  });
}

Kth kth_of(const KeyRank& found, std::int64_t k, const KeyOrder& order) {
  return {
      .threshold = value_of(found.key, order), .n_strict = found.above, .n_tie = k - found.above};
}

}  // namespace

void topk_mask(std::span<const Score> scores, std::int64_t k, const SelectOptions& options,
               std::span<const TensorView> within, std::span<const TensorView> outs) {
  const FloatEnvironment floats;
  const Checker check(options.op);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    check_score(scores[i], options.op);
    const std::string within_name = indexed("within", i, scores.size());
    const std::string out_name = indexed("out", i, scores.size());
    if (!within.empty()) check_within(check, {within_name.c_str(), within[i]}, scores[i].w);
    check_out(check, {out_name.c_str(), outs[i]}, scores[i], options.format,
              within.empty() ? nullptr : &within[i]);
    if (dtype_of(scores[i]) != dtype_of(scores[0])) {
      check.type_error(indexed("score", i, scores.size()) + " is compared in " +
                       name_of(dtype_of(scores[i])) + ", expected that of score[0], " +
                       name_of(dtype_of(scores[0])));
    }
    total += scores[i].w.numel();
  }
  if (k < 0 || k > total) {
    check.value_error("k is " + number(k) + ", expected 0 to " + number(total));
  }
  std::int64_t candidates = total;
  if (!within.empty()) {
    candidates = 0;
    for (const TensorView& mask : within)
      candidates += count_nonzero_of(bytes_of(mask), mask.numel());
    if (k > candidates) {
      check.value_error("k is " + number(k) + ", expected at most the " + number(candidates) +
                        " entries of within");
    }
  }
  // All are compared in one type: the scores' own where they share it.
  std::optional<DType> type;
  for (const Score& score : scores) {
    const DType own = KeyStream::type_of(score);
    type = !type || *type == own ? own : dtype_of(score);
  }
  std::vector<KeyStream> streams;
  streams.reserve(scores.size());
  std::vector<SelectPart> parts;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    streams.emplace_back(scores[i], *type, options);
    parts.push_back({.keys = &streams.back(),
                     .first = 0,
                     .count = scores[i].w.numel(),
                     .within = within.empty() ? nullptr : bytes_of(within[i]),
                     .mask = bytes_of(outs[i])});
  }
  check_nans(check, options, parts);
  const bool all = k == total;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const std::int64_t n = parts[i].count;
    ask_for_huge_pages(outs[i].data, mask_bytes(n, options.format));
    if (k == 0 || all) fill(parts[i].mask, n, all, options.format);
  }
  if (k != 0 && !all) select(parts, candidates, k, options.tie, packing_of(options.format));
}

void topk_mask(const Score& score, const Segments& segments, std::span<const std::int64_t> k,
               const SelectOptions& options, const std::optional<TensorView>& within,
               const TensorView& out) {
  const FloatEnvironment floats;
  const Checker check(options.op);
  check_score(score, options.op);
  if (within) check_within(check, {"within", *within}, score.w);
  check_out(check, {"out", out}, score, options.format, within ? &*within : nullptr);
  const std::int64_t n = score.w.numel();
  const std::uint8_t* allowed = within ? bytes_of(*within) : nullptr;
  const SegmentPlan plan({check, segments, n}, k);
  plan.check_k(check, 0, allowed);
  const KeyStream keys(score, KeyStream::type_of(score), options);
  check_nans(check, options, {{&keys, 0, n, nullptr, nullptr}});
  const bool packs = options.format != MaskFormat::bytes;
  const Scratch unpacked(packs ? n : 0);
  std::uint8_t* mask = packs ? unpacked.as<std::uint8_t>() : bytes_of(out);
  if (!packs) ask_for_huge_pages(out.data, n);
  const bool groups =
      segments.offsets.empty() && segments.length <= kGroupLength && allowed == nullptr;
  if (groups) {
    select_groups(keys, n, segments.length, k, options.tie, mask);
    if (packs) pack_bytes(mask, n, bytes_of(out), options.format);
    return;
  }
  const Factors factors(score);
  const auto trivial = [&](std::int64_t s) {
    const std::int64_t count = plan.length(s);
    const bool all = plan.k(s) == count;
    if (plan.k(s) != 0 && !all) return false;
    fill(mask + plan.at(s), count, all && plan.k(s) != 0, MaskFormat::bytes);
    return true;
  };
  plan.run(
      [&](std::int64_t s, SegmentGuess& guess) {
        if (trivial(s)) return;
        select_short(keys, factors, plan.at(s), plan.length(s), allowed, plan.k(s), options.tie,
                     mask + plan.at(s), {}, guess);
      },
      [&](std::int64_t s) {
        if (trivial(s)) return;
        const std::int64_t first = plan.at(s), count = plan.length(s);
        const std::int64_t candidates =
            allowed == nullptr ? count : count_nonzero_of(allowed + first, count);
        select({{&keys, first, count, allowed, mask + first}}, candidates, plan.k(s), options.tie,
               0);
      });
  if (packs) pack_bytes(mask, n, bytes_of(out), options.format);
}

std::int64_t count_nan(const Score& score) {
  const FloatEnvironment floats;
  check_score(score, "count_nan");
  const KeyStream keys(score, KeyStream::type_of(score), {});
  return count_nans({{&keys, 0, score.w.numel(), nullptr, nullptr}});
}

namespace {

/// Checks k, then calls ranked(keys, n, select) and returns its result; select(k) finds the k-th
/// key.
template <class F>
auto rank_all(const Score& score, std::int64_t k, const SelectOptions& options, F&& ranked) {
  const Checker check(options.op);
  check_score(score, options.op);
  const std::int64_t n = score.w.numel();
  if (k < 1 || k > n) check.value_error("k is " + number(k) + ", expected 1 to " + number(n));
  const KeyStream keys(score, KeyStream::type_of(score), options);
  const std::vector<SelectPart> parts = {{&keys, 0, n, nullptr, nullptr}};
  return ranked(keys, n, [&](std::int64_t rank) {
    const KeyRank found = select(parts, n, rank, options.tie, 0);
    if (found.nan) check_nans(check, options, parts);
    return found;
  });
}

}  // namespace

Kth kth(const Score& score, std::int64_t k, const SelectOptions& options) {
  const FloatEnvironment floats;
  return rank_all(score, k, options, [&](const auto& keys, std::int64_t, const auto& ranked) {
    return kth_of(ranked(k), k, keys.order());
  });
}

std::array<double, 2> kth_pair(const Score& score, std::int64_t k, const SelectOptions& options) {
  const FloatEnvironment floats;
  return rank_all(score, k, options, [&](const auto& keys, std::int64_t n, const auto& ranked) {
    const KeyRank found = ranked(k);
    if (found.nan) {
      constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
      return std::array{kNan, kNan};
    }
    std::uint64_t next = found.key;
    if (k == found.above + found.equal && k < n) {
      next = found.next ? *found.next : ranked(k + 1).key;
    }
    return std::array{value_of(found.key, keys.order()), value_of(next, keys.order())};
  });
}

void kth(const Score& score, const Segments& segments, std::span<const std::int64_t> k,
         const SelectOptions& options, const TensorView& threshold, const TensorView& n_strict,
         const TensorView& n_tie) {
  const FloatEnvironment floats;
  const Checker check(options.op);
  check_score(score, options.op);
  const std::int64_t n = score.w.numel();
  const SegmentPlan plan({check, segments, n}, k);
  plan.check_k(check, 1, nullptr);
  const DType type = dtype_of(score);
  if (threshold.dtype != type || n_strict.dtype != DType::i64 || n_tie.dtype != DType::i64) {
    check.type_error(std::string("threshold.dtype is ") + name_of(threshold.dtype) + ", expected " +
                     name_of(type) + ", and int64 counts");
  }
  for (const Argument& x : {Argument{"threshold", threshold}, Argument{"n_strict", n_strict},
                            Argument{"n_tie", n_tie}}) {
    check.device(x, score.w.device, "score");
    check.shape(x, {plan.count()});
    check.layout(x);
    check.writable(x, {{"score", score.w}});
  }
  const KeyStream keys(score, KeyStream::type_of(score), options);
  check_nans(check, options, {{&keys, 0, n, nullptr, nullptr}});
  const Factors factors(score);
  const auto write = [&](std::int64_t s, const KeyRank& found) {
    const Kth result = kth_of(found, plan.k(s), keys.order());
    if (type == DType::f64) {
      static_cast<double*>(threshold.data)[s] = result.threshold;
    } else {
      static_cast<float*>(threshold.data)[s] = static_cast<float>(result.threshold);
    }
    static_cast<std::int64_t*>(n_strict.data)[s] = result.n_strict;
    static_cast<std::int64_t*>(n_tie.data)[s] = result.n_tie;
  };
  plan.run(
      [&](std::int64_t s, SegmentGuess& guess) {
        write(s, select_short(keys, factors, plan.at(s), plan.length(s), nullptr, plan.k(s),
                              options.tie, nullptr, {}, guess));
      },
      [&](std::int64_t s) {
        write(s, select({{&keys, plan.at(s), plan.length(s), nullptr, nullptr}}, plan.length(s),
                        plan.k(s), options.tie, 0));
      });
}

void random_mask(std::int64_t k, std::uint64_t seed, std::uint64_t step,
                 const std::optional<TensorView>& within, const TensorView& out, const Part& part) {
  const FloatEnvironment floats;
  const Checker check("random_mask");
  check_mask_type(check, {"out", out});
  check.device({"out", out}, out.device, "out");
  check_like(check, {"out", out}, out);
  check.writable({"out", out}, {});
  const std::int64_t n = out.numel();
  const std::int64_t first = part.offset, total = part.total.value_or(first + n);
  if (first < 0 || total - n < first) {
    check.value_error("offset is " + number(first) + ", expected 0 to total - " + number(n) +
                      " = " + number(total - n));
  }
  std::int64_t candidates = total;
  if (within) {
    if (total != n) check.value_error("within is given for a part of a mask, expected None");
    check_mask_type(check, {"within", *within});
    check.device({"within", *within}, out.device, "out");
    if (within->rank != out.rank ||
        !std::equal(out.shape.begin(), out.shape.begin() + out.rank, within->shape.begin())) {
      check.value_error("within.shape is " + shape_string(*within) +
                        ", expected out.shape = " + shape_string(out));
    }
    if (!is_contiguous(*within)) {
      check.value_error("within is strided, expected a contiguous array");
    }
    check.writable({"out", out}, {{"within", *within}});
    candidates = count_nonzero_of(bytes_of(*within), n);
  }
  if (k < 0 || k > candidates) {
    check.value_error("k is " + number(k) + ", expected 0 to " + number(candidates) +
                      (within ? ", the entries of within" : ""));
  }
  ask_for_huge_pages(out.data, n);
  if (k == 0 || k == total) return fill(bytes_of(out), n, k != 0, MaskFormat::bytes);
  select_random({.seed = seed,
                 .step = step,
                 .total = total,
                 .k = k,
                 .candidates = candidates,
                 .within = within ? bytes_of(*within) : nullptr,
                 .first = first,
                 .count = n,
                 .mask = bytes_of(out)});
}

void topk_rows(const TensorView& x, std::int64_t k, const std::optional<TensorView>& key,
               const SelectOptions& options, const TensorView& values, const TensorView& indices) {
  const FloatEnvironment floats;
  const Checker check("topk_rows");
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
  const std::int64_t rows = x.shape[0], cols = x.shape[1], item = size_of(x.dtype);
  if (k < 0 || k > cols) {
    check.value_error("k is " + number(k) + ", expected 0 to " + number(cols));
  }
  if (cols > INT32_MAX) {
    check.value_error("x.shape[1] is " + number(cols) + ", expected at most 2147483647");
  }
  check.dtype({"values", values}, x.dtype, "x");
  check.dtype({"indices", indices}, DType::i32, "an index");
  for (const Argument& out : {Argument{"values", values}, Argument{"indices", indices}}) {
    check.device(out, x.device, "x");
    check.shape(out, {rows, k});
    check_like(check, out, out.view);
    check.writable(out, {{"x", x}, {"key", order}});
  }
  check.writable({"indices", indices}, {{"values", values}});
  if (rows == 0 || k == 0) return;
  const std::int64_t together =
      std::max<std::int64_t>(1, task_size(rows * cols) / std::max<std::int64_t>(cols, 1));
  const auto row_score = [&](std::int64_t row) {
    const auto* data = static_cast<const std::byte*>(order.data);
    return Score{.w = make_view(data + row * order.strides[0] * size_of(order.dtype), order.dtype,
                                {cols}, order.device),
                 .kind = ScoreKind::value};
  };
  if (options.nan == Nan::error) {
    std::int64_t nans = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      const KeyStream keys(row_score(row), order.dtype, options);
      nans += count_nans({{&keys, 0, cols, nullptr, nullptr}});
    }
    if (nans != 0) check.value_error("key has " + number(nans) + " NaN, expected none");
  }
  auto* chosen = static_cast<std::int32_t*>(indices.data);
  auto* taken = static_cast<std::byte*>(values.data);
  ask_for_huge_pages(chosen, rows * k * 4);
  ask_for_huge_pages(taken, rows * k * item);
  parallel_for((rows + together - 1) / together, [&](std::int64_t task) {
    constexpr std::int64_t kOver = 64;  // the kernel may write this many entries past a row's k
    // Even, so that the indices that follow the values are aligned.
    const std::int64_t room = (k + kOver + 1) / 2 * 2;
    const Scratch scratch(room * (item + 4));
    SegmentGuess guess = {};
    const std::int64_t end = std::min(rows, (task + 1) * together);
    for (std::int64_t row = task * together; row < end; ++row) {
      const KeyStream keys(row_score(row), order.dtype, options);
      Taken to{.indices = chosen + row * k,
               .from = static_cast<const std::byte*>(x.data) + row * x.strides[0] * item,
               .values = taken + row * k * item,
               .item = item};
      // What is written past a row's k is overwritten by the task's next rows. Near the end of the
      // task, where it would reach the rows of another task, the row is written to scratch memory
      // first.
      const bool direct = (row + 1) * k + kOver <= end * k;
      if (!direct) {
        to.values = scratch.data();
        to.indices = reinterpret_cast<std::int32_t*>(scratch.data() + room * item);
      }
      select_short(keys, {}, 0, cols, nullptr, k, options.tie, nullptr, to, guess);
      if (direct) continue;
      std::memcpy(chosen + row * k, to.indices, static_cast<std::size_t>(4 * k));
      std::memcpy(taken + row * k * item, to.values, static_cast<std::size_t>(k * item));
    }
  });
}

Selection::Selection(std::int64_t k, DType dtype, const SelectOptions& options)
    : k_(k), dtype_(dtype), options_(options) {
  const Checker check(options.op);
  if (!is_floating(dtype)) {
    check.type_error(std::string("dtype is ") + name_of(dtype) + ", expected a floating type");
  }
  if (k < 1) check.value_error("k is " + number(k) + ", expected at least 1");
  if (options.nan == Nan::error) {
    check.value_error("nan is 'error', expected 'lowest' or 'highest'");
  }
  hi_ = max_key(dtype);
}

namespace {

/// The stream of this process's part of the scores, compared in `type`.
KeyStream stream_of(const Score& score, DType type, const SelectOptions& options) {
  check_score(score, options.op);
  const DType own = KeyStream::type_of(score);
  if (own != type && dtype_of(score) != type) {
    const Checker check(options.op);
    check.type_error(std::string("score is compared in ") + name_of(own) +
                     ", expected the selection's dtype = " + name_of(type));
  }
  return {score, type, options};
}

}  // namespace

void Selection::histogram(const Score& score, std::span<std::int64_t> counts) const {
  const FloatEnvironment floats;
  const KeyStream keys = stream_of(score, dtype_, options_);
  if (counts.size() != static_cast<std::size_t>(kCounts) || done()) {
    Checker(options_.op).value_error("histogram after done, or counts of a wrong size");
  }
  count_bins({{&keys, 0, score.w.numel(), nullptr, nullptr}}, lo_, hi_, bin_shift(lo_, hi_),
             counts.data());
}

void Selection::narrow(std::span<const std::int64_t> counts) {
  const Checker check(options_.op);
  std::int64_t sum = 0;
  for (const std::int64_t count : counts) sum += count;
  if (total_ < 0) {
    if (k_ > sum) {
      check.value_error("k is " + number(k_) + ", expected at most the " + number(sum) +
                        " entries of all scores");
    }
    total_ = sum;
  } else if (sum != inside_) {
    check.value_error("counts add up to " + number(sum) + ", expected " + number(inside_));
  }
  const int shift = bin_shift(lo_, hi_);
  std::int64_t bin = kCounts - 1;
  while (bin > 0 && above_ + counts[static_cast<std::size_t>(bin)] < k_) {
    above_ += counts[static_cast<std::size_t>(bin--)];
  }
  lo_ += static_cast<std::uint64_t>(bin) << shift;
  hi_ = std::min(hi_, lo_ + ((std::uint64_t{1} << shift) - 1));
  inside_ = counts[static_cast<std::size_t>(bin)];
}

std::int64_t Selection::ties(const Score& score) const {
  const FloatEnvironment floats;
  const KeyStream keys = stream_of(score, dtype_, options_);
  return count_equal({{&keys, 0, score.w.numel(), nullptr, nullptr}}, lo_);
}

void Selection::emit(const Score& score, std::int64_t ties_before, const TensorView& out) const {
  const FloatEnvironment floats;
  const Checker check(options_.op);
  const KeyStream keys = stream_of(score, dtype_, options_);
  check_out(check, {"out", out}, score, options_.format, nullptr);
  if (!done()) check.value_error("emit before done, expected further rounds of narrow");
  mark_above({{&keys, 0, score.w.numel(), nullptr, bytes_of(out)}}, lo_,
             std::max<std::int64_t>(0, k_ - above_ - ties_before), options_.tie,
             packing_of(options_.format));
}

double Selection::threshold() const {
  const FloatEnvironment floats;
  return value_of(lo_, {.type = dtype_,
                        .magnitude = false,
                        .largest = options_.largest,
                        .nan_high = options_.nan == Nan::highest});
}

}  // namespace gossamer::prune
