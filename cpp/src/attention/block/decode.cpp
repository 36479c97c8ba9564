// Few queries against a cache of keys and values that lie in pages. The tokens of a list are cut
// into parts of fixed length, whatever the number of threads; the parts are merged in their order.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention/block/kernels.h"
#include "attention/block/problem.h"
#include "attention/block/tile.h"
#include "base/floats.h"
#include "base/scratch.h"
#include "base/work.h"
#include "gossamer/attention.h"

namespace gossamer {
using namespace detail;
namespace {

/// Tokens of a part: some hundred microseconds of work.
constexpr std::int64_t kPartTokens = 1024;
/// A part is computed in chunks of so many bytes of keys and values of all heads, and of so many
/// tokens: twice as much is in the caches at a time.
constexpr std::int64_t kChunkBytes = std::int64_t{256} << 10;
constexpr std::int64_t kLeastTokens = 16, kMostTokens = 32;

/// Checked operands, with copies of the lists, which were checked: the caller's may change
/// meanwhile.
struct Decode : DecodeSizes {
  std::int64_t value_width;
  std::vector<std::int32_t> indptr, indices;
  std::vector<std::int64_t> lengths;  // [batch · lists]
  ScoreRule rule;
};

void copy_lists(const Checker& check, const DecodeKeys& keys, Decode& d) {
  const std::int64_t rows = d.batch * d.lists;
  const auto copy = [](const TensorView& list) {
    const auto* from = static_cast<const std::int32_t*>(list.data);
    return std::vector<std::int32_t>(from, from + list.shape[0]);
  };
  d.indptr = copy(keys.indptr);
  d.indices = copy(keys.indices);
  const auto start = [&](std::int64_t r) { return d.indptr[static_cast<std::size_t>(r)]; };
  if (start(0) != 0) check.value_error("indptr[0] is " + text(start(0)) + ", expected 0");
  for (std::int64_t r = 0; r < rows; ++r) {
    if (start(r + 1) < start(r)) {
      check.value_error("indptr[" + text(r + 1) + "] is " + text(start(r + 1)) +
                        ", expected at least indptr[" + text(r) + "] = " + text(start(r)));
    }
  }
  if (start(rows) != keys.indices.shape[0]) {
    check.value_error("indices.shape[0] is " + text(keys.indices.shape[0]) +
                      ", expected indptr[-1] = " + text(start(rows)));
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int64_t room = 0;
    if (__builtin_mul_overflow(std::int64_t{start(r + 1)} - start(r), d.page_size, &room)) {
      room = std::numeric_limits<std::int64_t>::max();
    }
    std::int64_t length = room;
    if (keys.lengths) {
      const std::int64_t at = keys.lengths->rank == 2 ? r : r / d.lists;
      length = static_cast<const std::int32_t*>(keys.lengths->data)[at];
      if (length < 0 || length > room) {
        check.value_error("lengths has " + text(length) + ", expected 0 to " + text(room) +
                          ", which the pages hold");
      }
    }
    if (length > std::numeric_limits<std::int32_t>::max()) {
      check.value_error("a list has " + text(length) + " tokens, expected less than 2**31");
    }
    d.lengths.push_back(length);
    // Those behind the tokens are not read: tables of pages are padded.
    const std::int64_t last = start(r) + ceil_div(length, d.page_size);
    for (std::int64_t p = start(r); p < last; ++p) {
      const std::int64_t page = d.indices[static_cast<std::size_t>(p)];
      if (page < 0 || page >= d.pages) {
        check.value_error("indices[" + text(p) + "] is " + text(page) + ", expected 0 to " +
                          text(d.pages - 1));
      }
    }
  }
}

Decode check_decode(const Checker& check, const TensorView& q, const TensorView& k,
                    const TensorView& v, const DecodeKeys& keys, const AttentionOptions& options,
                    const TensorView& o, const TensorView& lse) {
  Decode d{check_attention_decode(check, q, k, v, keys, options, o, lse), 0, {}, {}, {}, {}};
  d.value_width = round_up(d.value_depth, kKeyUnit);
  d.rule = {.scale = d.scale,
            .softcap = static_cast<float>(options.softcap.value_or(0)),
            .bias_type = DType::f32};
  copy_lists(check, keys, d);
  return d;
}

struct Part {
  std::int64_t list, begin, end;  // tokens of a list
  std::int64_t b, key_head;
};

/// Results of parts: sums [rows, value_width], maxima and totals [rows].
struct PartResults {
  float* data;
  std::int64_t rows, width;

  [[nodiscard]] float* sums(std::int64_t part) const { return data + part * rows * (width + 2); }
  [[nodiscard]] float* maxima(std::int64_t part) const { return sums(part) + rows * width; }
  [[nodiscard]] float* totals(std::int64_t part) const { return maxima(part) + rows; }
};

/// Do all heads of a sequence have the same list?
bool same_lists(const Decode& d, std::int64_t b) {
  const std::int32_t* first = d.indptr.data() + b * d.lists;
  const std::int32_t* pages = d.indices.data() + first[0];
  const std::int32_t count = first[1] - first[0];
  for (std::int64_t l = 1; l < d.lists; ++l) {
    if (d.lengths[static_cast<std::size_t>(b * d.lists + l)] !=
            d.lengths[static_cast<std::size_t>(b * d.lists)] ||
        first[l + 1] - first[l] != count ||
        !std::equal(pages, pages + count, d.indices.data() + first[l])) {
      return false;
    }
  }
  return true;
}

/// Do the heads of a token lie side by side?
bool heads_together(const TensorView& x) {
  const std::int64_t heads = x.shape[2], width = (heads - 1) * x.strides[2] + x.shape[3];
  return x.strides[2] >= x.shape[3] && width <= 2 * heads * x.shape[3] && width <= x.strides[1];
}

/// Computes parts: that of one head, or those of all heads of a sequence that are of the same
/// tokens.
class PartsTask {
 public:
  /// `chunk`: the tokens that are computed at a time.
  PartsTask(const Decode& d, const TensorView& q, const TensorView& k, const TensorView& v,
            bool causal, const PartResults& results, const Part& part, std::int64_t heads,
            std::int64_t chunk)
      : d_(d),
        k_(k),
        v_(v),
        results_(results),
        part_(part),
        heads_(heads),
        chunk_(chunk),
        rows_(results.rows),
        memory_(4 * rows_ * heads * (d.depth + kChunkKeys)),
        pages_(d.indices.data() + d.indptr[static_cast<std::size_t>(part.list)]) {
    auto* to = memory_.as<float>();
    for (std::int64_t h = part.key_head; h < part.key_head + heads; ++h) {
      // Row g·queries + i is query i of head g of the group.
      for (std::int64_t g = 0; g < d.group; ++g, to += d.queries * d.depth) {
        const auto* from =
            static_cast<const std::byte*>(q.data) +
            (part.b * q.strides[0] + (h * d.group + g) * q.strides[2]) * size_of(q.dtype);
        pack_rows(from, q.dtype, q.strides[1], d.queries, d.depth, d.depth, to);
      }
    }
    const std::int64_t length = d.lengths[static_cast<std::size_t>(part.list)];
    for (std::int64_t r = 0; r < rows_; ++r) {
      const std::int64_t hidden = causal ? d.queries - 1 - r % d.queries : 0;
      query_.push_back(
          {.first = 0,
           .last = static_cast<std::int32_t>(std::max<std::int64_t>(length - hidden, 0)),
           .bits_row = 0,
           .bias = nullptr,
           .bias_slope = nullptr});
    }
  }

  /// `index`: that of the first head's part; those of the others are `stride` apart.
  void run(std::int64_t index, std::int64_t stride) {
    for (std::int64_t h = 0; h < heads_; ++h) {
      std::fill_n(results_.sums(index + h * stride), rows_ * d_.value_width, 0.0f);
      std::fill_n(results_.maxima(index + h * stride), rows_, -kInfinity);
      std::fill_n(results_.totals(index + h * stride), rows_, 0.0f);
    }
    std::vector<KeyRun> runs;
    const std::int32_t* page = pages_ + part_.begin / d_.page_size;
    std::int64_t at = part_.begin % d_.page_size;
    for (std::int64_t t = part_.begin; t < part_.end; ++page, at = 0) {
      const std::int64_t n = std::min(d_.page_size - at, part_.end - t);
      runs.push_back({.k = row(k_, *page, at),
                      .v = row(v_, *page, at),
                      .key = static_cast<std::int32_t>(t),
                      .count = static_cast<std::int32_t>(n)});
      t += n;
    }
    auto* queries = memory_.as<float>();
    block_attention_kernels().attention_rows(
        {.q = queries,
         .rows = rows_,
         .depth = d_.depth,
         .value_depth = d_.value_depth,
         .query = query_.data(),
         .runs = runs.data(),
         .count = static_cast<std::int64_t>(runs.size()),
         .k_stride = k_.strides[1],
         .v_stride = v_.strides[1],
         .type = k_.dtype,
         .rule = d_.rule,
         .chunk = static_cast<int>(chunk_),
         .scores = queries + heads_ * rows_ * d_.depth,
         .sums = results_.sums(index),
         .sums_pitch = d_.value_width,
         .maxima = results_.maxima(index),
         .totals = results_.totals(index),
         .heads = heads_,
         .q_head = rows_ * d_.depth,
         .k_head = k_.strides[2],
         .v_head = v_.strides[2],
         .sums_head = results_.sums(index + stride) - results_.sums(index)});
  }

 private:
  [[nodiscard]] const std::byte* row(const TensorView& x, std::int64_t page,
                                     std::int64_t at) const {
    return static_cast<const std::byte*>(x.data) +
           (page * x.strides[0] + at * x.strides[1] + part_.key_head * x.strides[2]) *
               size_of(x.dtype);
  }

  const Decode& d_;
  const TensorView &k_, &v_;
  const PartResults& results_;
  const Part& part_;
  std::int64_t heads_, chunk_, rows_;
  Scratch memory_;
  const std::int32_t* pages_;
  std::vector<QueryRow> query_;
};

}  // namespace

void attention_decode(const TensorView& q, const TensorView& k, const TensorView& v,
                      const DecodeKeys& keys, const AttentionOptions& options, const TensorView& o,
                      const TensorView& lse) {
  const FloatEnvironment floats;
  const Decode d = check_decode(Checker("attention_decode"), q, k, v, keys, options, o, lse);
  const std::int64_t rows = d.group * d.queries, size = size_of(q.dtype);
  if (d.batch == 0 || rows == 0) return;
  std::vector<Part> parts;
  std::vector<std::int64_t> first_parts;  // of each pair (b, head of keys), and behind the last
  std::int64_t tokens = 0;
  for (std::int64_t pair = 0; pair < d.batch * d.key_heads; ++pair) {
    const std::int64_t b = pair / d.key_heads, h = pair % d.key_heads;
    const std::int64_t list = d.lists == 1 ? b : pair;
    const std::int64_t length = d.lengths[static_cast<std::size_t>(list)];
    first_parts.push_back(static_cast<std::int64_t>(parts.size()));
    for (std::int64_t t = 0; t < length; t += kPartTokens) {
      parts.push_back({.list = list,
                       .begin = t,
                       .end = std::min(t + kPartTokens, length),
                       .b = b,
                       .key_head = h});
    }
    tokens += length;
  }
  const auto count = static_cast<std::int64_t>(parts.size());
  first_parts.push_back(count);
  const Scratch memory(count * rows * (d.value_width + 2) * 4);
  const PartResults results{.data = memory.as<float>(), .rows = rows, .width = d.value_width};
  const double nanoseconds =
      static_cast<double>(tokens) * static_cast<double>((d.depth + d.value_depth) * rows) * 0.05;
  // Where the heads of a token lie side by side and have one list, they are read together, in the
  // order of memory, if that leaves every thread something to do. The chunks do not depend on it,
  // so that a sequence's bits depend neither on the lists of others nor on the threads.
  const bool beside = d.key_heads > 1 && heads_together(k) && heads_together(v);
  bool together = beside && count / d.key_heads >= std::int64_t{4} * num_threads();
  for (std::int64_t b = 0; together && b < d.batch; ++b) together = same_lists(d, b);
  const std::int64_t token = (beside ? d.key_heads : 1) * (d.depth + d.value_depth) * size;
  const std::int64_t chunk =
      std::clamp<std::int64_t>(kChunkBytes / token, kLeastTokens, kMostTokens);
  if (together) {
    std::vector<std::int64_t> tasks;  // parts of the first heads
    for (std::int64_t i = 0; i < count; ++i) {
      if (parts[static_cast<std::size_t>(i)].key_head == 0) tasks.push_back(i);
    }
    for_tasks(static_cast<std::int64_t>(tasks.size()), nanoseconds, [&](std::int64_t task) {
      const std::int64_t i = tasks[static_cast<std::size_t>(task)];
      const Part& part = parts[static_cast<std::size_t>(i)];
      const auto pair = static_cast<std::size_t>(part.b * d.key_heads);
      PartsTask(d, q, k, v, options.causal, results, part, d.key_heads, chunk)
          .run(i, first_parts[pair + 1] - first_parts[pair]);
    });
  } else {
    for_tasks(count, nanoseconds, [&](std::int64_t i) {
      PartsTask(d, q, k, v, options.causal, results, parts[static_cast<std::size_t>(i)], 1, chunk)
          .run(i, 0);
    });
  }
  const std::int64_t pairs = d.batch * d.key_heads;
  for_tasks(pairs, static_cast<double>(count * rows * d.value_width), [&](std::int64_t pair) {
    const std::int64_t b = pair / d.key_heads, key_head = pair % d.key_heads;
    const std::int64_t first = first_parts[static_cast<std::size_t>(pair)];
    const std::int64_t last = first_parts[static_cast<std::size_t>(pair) + 1];
    std::vector<float> sums(static_cast<std::size_t>(d.value_width));
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t head = key_head * d.group + r / d.queries, i = r % d.queries;
      const float sink =
          options.sinks ? static_cast<const float*>(options.sinks->data)[head] : -kInfinity;
      float maximum = sink;
      for (std::int64_t part = first; part < last; ++part) {
        maximum = std::max(maximum, results.maxima(part)[r]);
      }
      std::fill(sums.begin(), sums.end(), 0.0f);
      float total = sink == -kInfinity ? 0.0f : std::exp(sink - maximum);
      for (std::int64_t part = first; part < last; ++part) {
        const float own = results.maxima(part)[r];
        if (own == -kInfinity && results.totals(part)[r] == 0) continue;
        const float share = std::exp(own - maximum);
        total += share * results.totals(part)[r];
        const float* from = results.sums(part) + r * d.value_width;
        for (std::size_t c = 0; c < sums.size(); ++c) sums[c] += share * from[c];
      }
      for (float& sum : sums) sum = total == 0 ? 0.0f : sum / total;
      auto* to = static_cast<std::byte*>(o.data) +
                 (b * o.strides[0] + i * o.strides[1] + head * o.strides[2]) * size;
      store_rows(sums.data(), d.value_width, 1, d.value_depth, to, o.dtype, o.strides[1]);
      static_cast<float*>(lse.data)[(b * d.heads + head) * d.queries + i] =
          total == 0 ? -kInfinity : maximum + std::log(total);
    }
  });
}

}  // namespace gossamer
