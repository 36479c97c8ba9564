#include "gossamer/select.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "gossamer/check.h"
#include "isa.h"
#include "ops/score_reader.h"
#include "pool.h"

namespace gossamer {
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

std::uint64_t key_of(double x, const SelectOptions& options) {
  std::uint64_t key = options.nan == Nan::highest ? ~std::uint64_t{0} : 0;
  if (x == x) {
    x += 0.0;  // -0 to +0
    std::uint64_t bits;
    std::memcpy(&bits, &x, 8);
    key = (bits >> 63) != 0 ? ~bits : bits | (std::uint64_t{1} << 63);
  }
  return options.largest ? key : ~key;
}

}  // namespace

void topk_mask(std::span<const Score> scores, std::int64_t k, const SelectOptions& options,
               std::span<const TensorView> within, std::span<const TensorView> outs) {
  const Checker check(options.op);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    check_score(scores[i], options.op);
    const std::string within_name = indexed("within", i, scores.size());
    const std::string out_name = indexed("out", i, scores.size());
    if (!within.empty()) check_within(check, {within_name.c_str(), within[i]}, scores[i].w);
    check_out(check, {out_name.c_str(), outs[i]}, scores[i], options.format,
              within.empty() ? nullptr : &within[i]);
    total += scores[i].w.numel();
  }
  if (k < 0 || k > total) {
    check.value_error("k is " + number(k) + ", expected 0 to " + number(total));
  }
  struct Entry {
    std::uint64_t key;
    std::int64_t index;
  };
  std::vector<Entry> entries;
  entries.reserve(static_cast<std::size_t>(total));
  std::vector<double> values;
  std::int64_t base = 0, nans = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const std::int64_t n = scores[i].w.numel();
    const ScoreReader reader(scores[i]);
    values.resize(static_cast<std::size_t>(n));
    parallel_for((n + kPiece - 1) / kPiece, [&](std::int64_t piece) {
      const std::int64_t first = piece * kPiece, count = std::min(kPiece, n - first);
      double* to = values.data() + first;
      if (reader.f64()) return reader.read(first, count, to);
      std::vector<float> part(static_cast<std::size_t>(count));
      reader.read(first, count, part.data());
      std::copy(part.begin(), part.end(), to);
    });
    const auto* mask = within.empty() ? nullptr : static_cast<const std::uint8_t*>(within[i].data);
    for (std::int64_t e = 0; e < n; ++e) {
      if (mask != nullptr && mask[e] == 0) continue;
      const double x = values[static_cast<std::size_t>(e)];
      nans += x != x;
      entries.push_back({key_of(x, options), base + e});
    }
    base += n;
  }
  if (options.nan == Nan::error && nans != 0) {
    check.value_error("score has " + number(nans) + " NaN, expected none");
  }
  if (k > static_cast<std::int64_t>(entries.size())) {
    check.value_error("k is " + number(k) + ", expected at most the " +
                      number(static_cast<std::int64_t>(entries.size())) + " entries of within");
  }
  std::nth_element(entries.begin(), entries.begin() + k, entries.end(),
                   [&](const Entry& a, const Entry& b) {
                     if (a.key != b.key) return a.key > b.key;
                     return options.tie == Tie::low ? a.index < b.index : a.index > b.index;
                   });
  std::vector<std::int64_t> starts;
  std::int64_t start = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const std::int64_t n = scores[i].w.numel();
    starts.push_back(start);
    start += n;
    if (n != 0) {
      const std::int64_t bytes = options.format == MaskFormat::bytes ? n : (n + 7) / 8;
      std::memset(outs[i].data, 0, static_cast<std::size_t>(bytes));
    }
  }
  for (std::int64_t e = 0; e < k; ++e) {
    const std::int64_t at = entries[static_cast<std::size_t>(e)].index;
    const auto i = static_cast<std::size_t>(std::upper_bound(starts.begin(), starts.end(), at) -
                                            starts.begin() - 1);
    auto* out = static_cast<std::uint8_t*>(outs[i].data);
    const std::int64_t local = at - starts[i];
    if (options.format == MaskFormat::bytes) {
      out[local] = 1;
    } else {
      const int bit = static_cast<int>(local & 7);
      const int shift = options.format == MaskFormat::little ? bit : 7 - bit;
      out[local >> 3] = static_cast<std::uint8_t>(out[local >> 3] | (1 << shift));
    }
  }
}

}  // namespace gossamer
