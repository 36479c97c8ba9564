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
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string text(std::int64_t n) { return std::to_string(n); }

/// Checked operands.
struct Decode {
  std::int64_t batch, queries, heads, key_heads, group, depth, value_depth, value_width;
  std::int64_t pages, page_size, lists;  // lists: heads that have a list of their own
  const std::int32_t* indptr;
  const std::int32_t* indices;
  std::vector<std::int64_t> lengths;  // [batch · lists]
  ScoreRule rule;
};

void check_array(const Checker& check, const Argument& x, DType type, const char* like,
                 std::initializer_list<int> ranks, Device device) {
  check.dtype(x, type, like);
  check.rank(x, ranks);
  check.device(x, device, "q");
  check.layout(x);
}

void check_lists(const Checker& check, const DecodeKeys& keys, Decode& d, Device device) {
  const Argument indptr{"indptr", keys.indptr}, indices{"indices", keys.indices};
  for (const Argument& x : {indptr, indices}) {
    check_array(check, x, DType::i32, "int32", {1}, device);
    check.contiguous(x);
  }
  const std::int64_t rows = keys.indptr.shape[0] - 1;
  if (rows != d.batch && rows != d.batch * d.key_heads) {
    check.value_error("indptr.shape[0] is " + text(rows + 1) + ", expected B + 1 = " +
                      text(d.batch + 1) + " or B*Hkv + 1 = " + text(d.batch * d.key_heads + 1));
  }
  d.lists = rows == d.batch ? 1 : d.key_heads;
  d.indptr = static_cast<const std::int32_t*>(keys.indptr.data);
  d.indices = static_cast<const std::int32_t*>(keys.indices.data);
  if (d.indptr[0] != 0) check.value_error("indptr[0] is " + text(d.indptr[0]) + ", expected 0");
  for (std::int64_t r = 0; r < rows; ++r) {
    if (d.indptr[r + 1] < d.indptr[r]) {
      check.value_error("indptr[" + text(r + 1) + "] is " + text(d.indptr[r + 1]) +
                        ", expected at least indptr[" + text(r) + "] = " + text(d.indptr[r]));
    }
  }
  if (d.indptr[rows] != keys.indices.shape[0]) {
    check.value_error("indices.shape[0] is " + text(keys.indices.shape[0]) +
                      ", expected indptr[-1] = " + text(d.indptr[rows]));
  }
  for (std::int64_t p = 0; p < d.indptr[rows]; ++p) {
    if (d.indices[p] < 0 || d.indices[p] >= d.pages) {
      check.value_error("indices[" + text(p) + "] is " + text(d.indices[p]) + ", expected 0 to " +
                        text(d.pages - 1));
    }
  }
  if (keys.lengths) {
    const Argument lengths{"lengths", *keys.lengths};
    check_array(check, lengths, DType::i32, "int32", {1, 2}, device);
    check.contiguous(lengths);
    check.extent(lengths, 0, d.batch, "q.shape[0]");
    if (keys.lengths->rank == 2) check.extent(lengths, 1, d.lists, "the lists of a sequence");
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t room = (std::int64_t{d.indptr[r + 1]} - d.indptr[r]) * d.page_size;
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
  }
}

Decode check_decode(const Checker& check, const TensorView& q, const TensorView& k,
                    const TensorView& v, const DecodeKeys& keys, const AttentionOptions& options,
                    const TensorView& o, const TensorView& lse) {
  if (q.dtype != DType::f32 && q.dtype != DType::f16 && q.dtype != DType::bf16) {
    check.type_error(std::string("q.dtype is ") + name_of(q.dtype) +
                     ", expected float32, float16 or bfloat16");
  }
  const Argument k_arg{"k_cache", k}, v_arg{"v_cache", v};
  for (const Argument& x : {Argument{"q", q}, k_arg, v_arg}) {
    check_array(check, x, q.dtype, "q", {4}, q.device);
    if (x.view.shape[3] < 1 || x.view.shape[3] > 256) {
      check.value_error(std::string(x.name) + ".shape[3] is " + text(x.view.shape[3]) +
                        ", expected 1 to 256");
    }
  }
  Decode d{};
  d.batch = q.shape[0];
  d.queries = q.shape[1];
  d.heads = q.shape[2];
  d.depth = q.shape[3];
  d.pages = k.shape[0];
  d.page_size = k.shape[1];
  d.key_heads = k.shape[2];
  d.value_depth = v.shape[3];
  d.value_width = round_up(d.value_depth, kKeyUnit);
  check.extent(k_arg, 3, d.depth, "q.shape[3]");
  for (int axis = 0; axis < 3; ++axis) {
    check.extent(v_arg, axis, k.shape[static_cast<std::size_t>(axis)],
                 ("k_cache.shape[" + text(axis) + "]").c_str());
  }
  if (d.key_heads < 1 || d.heads % d.key_heads != 0) {
    check.value_error("q has " + text(d.heads) + " heads, expected a multiple of k_cache's " +
                      text(d.key_heads));
  }
  d.group = d.heads / d.key_heads;
  check_lists(check, keys, d, q.device);
  const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(d.depth)));
  if (!std::isfinite(scale)) {
    check.value_error("scale is " + std::to_string(scale) + ", expected a finite number");
  }
  if (options.softcap && !(*options.softcap > 0 && std::isfinite(*options.softcap))) {
    check.value_error("softcap is " + std::to_string(*options.softcap) +
                      ", expected a positive number");
  }
  d.rule = {.scale = static_cast<float>(scale),
            .softcap = static_cast<float>(options.softcap.value_or(0)),
            .bias_type = DType::f32};
  if (options.sinks) {
    check.dtype({"sinks", *options.sinks}, DType::f32, "float32");
    check.device({"sinks", *options.sinks}, q.device, "q");
    check.shape({"sinks", *options.sinks}, {d.heads});
    check.contiguous({"sinks", *options.sinks});
  }
  check.dtype({"out[0]", o}, q.dtype, "q");
  check.shape({"out[0]", o}, {d.batch, d.queries, d.heads, d.value_depth});
  check.dtype({"out[1]", lse}, DType::f32, "float32");
  check.shape({"out[1]", lse}, {d.batch, d.heads, d.queries});
  check.contiguous({"out[1]", lse});
  for (const Argument& x : {Argument{"out[0]", o}, Argument{"out[1]", lse}}) {
    check.device(x, q.device, "q");
    check.layout(x);
    check.writable(x, {{"q", q}, k_arg, v_arg, {"indptr", keys.indptr}, {"indices", keys.indices}});
  }
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
  const auto load_queries = [&](std::int64_t b, std::int64_t key_head, float* to) {
    // Row g·queries + i is query i of head g of the group.
    for (std::int64_t g = 0; g < d.group; ++g) {
      const auto* from = static_cast<const std::byte*>(q.data) +
                         (b * q.strides[0] + (key_head * d.group + g) * q.strides[2]) * size;
      pack_rows(from, q.dtype, q.strides[1], d.queries, d.depth, d.depth,
                to + g * d.queries * d.depth);
    }
  };
  const double nanoseconds =
      static_cast<double>(tokens) * static_cast<double>((d.depth + d.value_depth) * rows) * 0.05;
  const auto run_part = [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    const Part& part = parts[static_cast<std::size_t>(i)];
    const Scratch scratch(4 * rows * (d.depth + kChunkKeys));
    auto* queries = scratch.as<float>();
    load_queries(part.b, part.key_head, queries);
    const std::int64_t length = d.lengths[static_cast<std::size_t>(part.list)];
    std::vector<QueryRow> query(static_cast<std::size_t>(rows));
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t hidden = options.causal ? d.queries - 1 - r % d.queries : 0;
      query[static_cast<std::size_t>(r)] = {
          .first = 0,
          .last = static_cast<std::int32_t>(std::max<std::int64_t>(length - hidden, 0)),
          .bits_row = 0,
          .bias = nullptr,
          .bias_slope = nullptr};
    }
    std::vector<KeyRun> runs;
    const std::int32_t* pages = d.indices + d.indptr[part.list];
    for (std::int64_t t = begin; t < end;) {
      const std::int64_t at = t % d.page_size, page = pages[t / d.page_size];
      const std::int64_t n = std::min(d.page_size - at, end - t);
      const auto row = [&](const TensorView& x) {
        return static_cast<const std::byte*>(x.data) +
               (page * x.strides[0] + at * x.strides[1] + part.key_head * x.strides[2]) * size;
      };
      runs.push_back({.k = row(k),
                      .v = row(v),
                      .key = static_cast<std::int32_t>(t),
                      .count = static_cast<std::int32_t>(n)});
      t += n;
    }
    if (begin == part.begin) {
      std::fill_n(results.sums(i), rows * d.value_width, 0.0f);
      std::fill_n(results.maxima(i), rows, -kInfinity);
      std::fill_n(results.totals(i), rows, 0.0f);
    }
    block_attention_kernels().attention_rows({.q = queries,
                                              .rows = rows,
                                              .depth = d.depth,
                                              .value_depth = d.value_depth,
                                              .query = query.data(),
                                              .runs = runs.data(),
                                              .count = static_cast<std::int64_t>(runs.size()),
                                              .k_stride = k.strides[1],
                                              .v_stride = v.strides[1],
                                              .type = q.dtype,
                                              .rule = d.rule,
                                              .scores = queries + rows * d.depth,
                                              .sums = results.sums(i),
                                              .sums_pitch = d.value_width,
                                              .maxima = results.maxima(i),
                                              .totals = results.totals(i)});
  };
  // Where the heads of a token lie side by side, they are read together, a chunk of keys at a time:
  // their pages of memory are then looked up once. The sums are the same, for chunks are.
  const std::int64_t per_pair = first_parts.size() > 1 ? first_parts[1] : 0;
  bool together = k.strides[2] < k.strides[1] && d.key_heads > 1 &&
                  d.batch * per_pair >= std::int64_t{4} * num_threads();
  for (std::int64_t pair = 0; pair < d.batch * d.key_heads; ++pair) {
    together = together && first_parts[static_cast<std::size_t>(pair)] == pair * per_pair;
  }
  together = together && count == d.batch * d.key_heads * per_pair;
  if (together) {
    for_tasks(d.batch * per_pair, nanoseconds, [&](std::int64_t task) {
      const std::int64_t first = task / per_pair * d.key_heads * per_pair + task % per_pair;
      for (std::int64_t from = 0; from < kPartTokens; from += kChunkKeys) {
        for (std::int64_t h = 0; h < d.key_heads; ++h) {
          const std::int64_t i = first + h * per_pair;
          const Part& part = parts[static_cast<std::size_t>(i)];
          const std::int64_t begin = part.begin + from;
          if (begin < part.end) run_part(i, begin, std::min(begin + kChunkKeys, part.end));
        }
      }
    });
  } else {
    for_tasks(count, nanoseconds, [&](std::int64_t i) {
      const Part& part = parts[static_cast<std::size_t>(i)];
      run_part(i, part.begin, part.end);
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
