// Eight threads call every operation at once on shared matrices while another changes the number of
// threads: under the thread sanitizer this shows races, and each result must be the serial one's
// bits. So must one of a caller that rounds upwards; and a long operation ends when it is told to.
#include <atomic>
#include <cfenv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <optional>
#include <thread>
#include <vector>

#include "check.h"
#include "gossamer/gossamer.h"

namespace {

using gossamer::DType;
using gossamer::make_view;

constexpr std::int64_t kRows = 512, kCols = 384, kWidth = 32, kDepth = 16;
constexpr int kThreads = 8, kRounds = 3;

/// A fixed sequence of floats in [-1, 1).
std::vector<float> numbers(std::int64_t n, std::uint32_t seed) {
  std::vector<float> x(static_cast<std::size_t>(n));
  for (float& value : x) {
    seed = seed * 1664525U + 1013904223U;
    value = static_cast<float>(seed >> 8) / 8388608.0F - 1.0F;
  }
  return x;
}

struct Problem {
  std::vector<std::int32_t> indptr = {0}, indices;
  std::vector<float> values, b, bt, x, left, right, w;

  Problem() {
    for (std::int64_t i = 0; i < kRows; ++i) {
      for (std::int64_t j = 0; j < kCols; ++j) {
        if ((i * 7 + j * 13 + i * j) % 5 == 0) indices.push_back(static_cast<std::int32_t>(j));
      }
      indptr.push_back(static_cast<std::int32_t>(indices.size()));
    }
    values = numbers(nnz(), 1);
    b = numbers(kCols * kWidth, 2);
    bt = numbers(kRows * kWidth, 3);
    x = numbers(kWidth * kCols, 4);
    left = numbers(kRows * kDepth, 5);
    right = numbers(kCols * kDepth, 6);
    w = numbers(kRows * kCols, 10);
  }

  [[nodiscard]] std::int64_t nnz() const { return static_cast<std::int64_t>(indices.size()); }

  [[nodiscard]] gossamer::Csr csr() const {
    return gossamer::Csr(make_view(indptr.data(), DType::i32, {kRows + 1}),
                         make_view(indices.data(), DType::i32, {nnz()}),
                         make_view(values.data(), DType::f32, {nnz()}), kRows, kCols);
  }
};

struct Call {
  const char* name;
  std::int64_t size;
  std::function<void(float*)> run;
};

/// out = x·Wᵀ with W quantised first.
void linear_of_groups(const gossamer::TensorView& x, const gossamer::TensorView& w,
                      const gossamer::TensorView& out) {
  std::vector<std::int32_t> indptr(kRows + 1);
  const auto rows = make_view(indptr.data(), DType::i32, {kRows + 1});
  const std::int64_t count = gossamer::quant_count(w, std::nullopt, 16, rows);
  const auto size = static_cast<std::size_t>(count);
  std::vector<std::uint16_t> indices(size), scales(size);
  std::vector<std::uint8_t> codes(8 * size), zeros(size);
  const auto i = make_view(indices.data(), DType::u16, {count});
  const auto c = make_view(codes.data(), DType::u8, {count, 8});
  const auto s = make_view(scales.data(), DType::f16, {count});
  const auto z = make_view(zeros.data(), DType::u8, {count});
  gossamer::quant_fill(w, std::nullopt, 4, rows, i, c, s, z);
  linear(x,
         gossamer::GroupQuant(
             rows, i, c, s, z,
             {.rows = kRows, .cols = kCols, .group = 16, .bits = 4, .dtype = DType::f32}),
         out);
}

std::vector<Call> calls(const Problem& p, const gossamer::Csr& a, const gossamer::Packed& packed) {
  const auto b = make_view(p.b.data(), DType::f32, {kCols, kWidth});
  const auto bt = make_view(p.bt.data(), DType::f32, {kRows, kWidth});
  const auto x = make_view(p.x.data(), DType::f32, {kWidth, kCols});
  const auto left = make_view(p.left.data(), DType::f32, {kRows, kDepth});
  const auto right = make_view(p.right.data(), DType::f32, {kCols, kDepth});
  const auto w = make_view(p.w.data(), DType::f32, {kRows, kCols});
  const auto wt = make_view(p.w.data(), DType::f32, {kCols, kRows});
  const auto out = [](float* data, std::initializer_list<std::int64_t> shape) {
    return make_view(data, DType::f32, shape);
  };
  return {
      {"spmm", kRows * kWidth, [=](float* c) { spmm(a, b, out(c, {kRows, kWidth})); }},
      {"spmm packed", kRows * kWidth, [=](float* c) { spmm(packed, b, out(c, {kRows, kWidth})); }},
      {"spmm transposed", kCols * kWidth,
       [=](float* c) { spmm(a, bt, out(c, {kCols, kWidth}), true); }},
      {"linear", kWidth * kRows, [=](float* c) { linear(x, a, out(c, {kWidth, kRows})); }},
      {"linear packed", kWidth * kRows,
       [=](float* c) { linear(x, packed, out(c, {kWidth, kRows})); }},
      {"linear of groups", kWidth * kRows,
       [=](float* c) { linear_of_groups(x, w, out(c, {kWidth, kRows})); }},
      {"sparse_linear", kWidth * kRows,
       [=](float* c) { sparse_linear(x, wt, {.value = 0.5}, out(c, {kWidth, kRows})); }},
      {"gated_mlp", kWidth * kCols,
       [=](float* c) { gated_mlp(x, w, w, w, {.value = 2}, out(c, {kWidth, kCols})); }},
      {"sddmm", a.nnz(), [=](float* c) { sddmm(left, right, a, out(c, {a.nnz()})); }},
      {"csr_softmax", a.nnz(), [=](float* c) { csr_softmax(a, a.values(), out(c, {a.nnz()})); }},
      {"csr_attention", kRows * kDepth,
       [=](float* c) {
         std::vector<float> lse(kRows);
         csr_attention(left, right, right, a, out(c, {kRows, kDepth}), out(lse.data(), {kRows}));
       }},
  };
}

/// The caller's floating-point environment changes no bit, and is there again afterwards.
void check_environment(const std::vector<Call>& all,
                       const std::vector<std::vector<float>>& expected) {
  for (const int threads : {1, 4}) {
    gossamer::set_num_threads(threads);
    for (std::size_t i = 0; i < all.size(); ++i) {
      std::vector<float> out(expected[i].size());
      std::fesetround(FE_UPWARD);
      all[i].run(out.data());
      const int after = std::fegetround();
      std::fesetround(FE_TONEAREST);
      check(after == FE_UPWARD, all[i].name);
      check(std::memcmp(out.data(), expected[i].data(), out.size() * sizeof(float)) == 0,
            all[i].name);
    }
  }
}

struct Enough {};

/// A search that would take days ends when the caller's check throws, and so do its parts on other
/// threads.
void check_interrupt() {
  constexpr std::int64_t kSearched = 1536;  // in parts of up to 512 columns
  const std::vector<float> w = numbers(16 * kSearched, 7);
  std::vector<std::int32_t> order(kSearched);
  for (const int threads : {1, 4}) {
    gossamer::set_num_threads(threads);
    int calls = 0;
    const auto look = [](void* context) {
      if (++*static_cast<int*>(context) == 2) throw Enough();
    };
    bool ended = false;
    try {
      const gossamer::InterruptScope scope(look, &calls);
      gossamer::prune::permutation_search({.w = make_view(w.data(), DType::f32, {16, kSearched})},
                                          2, 4, {.escapes = std::int64_t{1} << 40},
                                          make_view(order.data(), DType::i32, {kSearched}));
    } catch (const Enough&) {
      ended = true;
    }
    check(ended && calls == 2, "what the check throws leaves the operation");
  }
}

/// A step that is interrupted between its changes and their sums leaves an empty state.
void check_interrupted_state() {
  constexpr std::int64_t kTokens = 4096, kIn = 1024, kOut = 2048;  // longer than a check is away
  const std::vector<float> wt = numbers(kIn * kOut, 8), x = numbers(kTokens * kIn, 9);
  std::vector<float> last(kTokens * kIn, 0.5F), sums(kTokens * kOut, 0.5F), out(kTokens * kOut);
  const auto look = [](void* /*context*/) { throw Enough(); };
  gossamer::set_num_threads(1);
  bool ended = false;
  try {
    const gossamer::InterruptScope scope(look, nullptr);
    delta_linear(make_view(x.data(), DType::f32, {kTokens, kIn}),
                 make_view(wt.data(), DType::f32, {kIn, kOut}),
                 {.last = make_view(last.data(), DType::f32, {kTokens, kIn}),
                  .sums = make_view(sums.data(), DType::f32, {kTokens, kOut})},
                 {.value = 0}, make_view(out.data(), DType::f32, {kTokens, kOut}));
  } catch (const Enough&) {
    ended = true;
  }
  check(ended && last == std::vector<float>(last.size()) && sums == std::vector<float>(sums.size()),
        "delta_linear forgets what it could not finish");
}

}  // namespace

int main() {
  const Problem problem;
  const gossamer::Csr a = problem.csr();
  const std::vector<Call> all = calls(problem, a, gossamer::pack(a));

  gossamer::set_num_threads(1);
  std::vector<std::vector<float>> expected;
  for (const Call& call : all) {
    expected.emplace_back(static_cast<std::size_t>(call.size));
    call.run(expected.back().data());
  }

  gossamer::set_num_threads(4);
  std::atomic<int> wrong = 0;
  std::atomic<bool> done = false;
  std::vector<std::thread> workers;
  for (int t = 0; t < kThreads; ++t) {
    workers.emplace_back([&, t] {
      for (std::size_t i = 0; i < kRounds * all.size(); ++i) {
        const std::size_t which = (i + static_cast<std::size_t>(t)) % all.size();
        std::vector<float> out(expected[which].size());
        all[which].run(out.data());
        wrong += std::memcmp(out.data(), expected[which].data(), out.size() * sizeof(float)) != 0;
      }
    });
  }
  std::thread changer([&] {
    for (int n = 0; !done; ++n) {
      gossamer::set_num_threads(2 + n % 3);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  for (std::thread& worker : workers) worker.join();
  done = true;
  changer.join();
  check(wrong == 0, "every thread gets the serial result");

  check_environment(all, expected);
  check_interrupt();
  check_interrupted_state();
}
