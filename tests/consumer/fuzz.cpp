// Matrices with broken structure, through the public C++ API. A matrix is drawn valid, and in half
// of the cases a few of its numbers are then replaced: the constructor must refuse it if and only
// if it is invalid, and what it accepts must multiply, convert and transpose without an access out
// of bounds, which the sanitizer builds see.
//
// fuzz [cases] [seed] runs that many cases. With clang, -fsanitize=fuzzer -DGOSSAMER_LIBFUZZER
// makes a libFuzzer target of it, which chooses the numbers by coverage (`make fuzz`).
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "check.h"
#include "gossamer/gossamer.h"

namespace {

using gossamer::DType;
using gossamer::make_view;
using gossamer::TensorView;

/// Numbers of the input, then zeros.
class Source {
 public:
  explicit Source(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  [[nodiscard]] std::int64_t below(std::int64_t n) {
    std::uint64_t x = byte();
    if (n > 256) x = x << 8 | byte();
    return static_cast<std::int64_t>(x % static_cast<std::uint64_t>(n));
  }
  [[nodiscard]] bool one_in(std::int64_t n) { return below(n) == n - 1; }
  [[nodiscard]] bool empty() const { return at_ >= bytes_.size(); }

 private:
  std::uint64_t byte() { return empty() ? 0 : bytes_[at_++]; }

  std::span<const std::uint8_t> bytes_;
  std::size_t at_ = 0;
};

/// An int32 or int64 array.
struct Indices {
  std::vector<std::int64_t> wide;
  std::vector<std::int32_t> narrow;
  bool is_wide;

  Indices(const std::vector<std::int64_t>& values, bool as_int64)
      : wide(values), is_wide(as_int64) {
    for (const std::int64_t v : values) narrow.push_back(static_cast<std::int32_t>(v));
  }
  [[nodiscard]] TensorView view() {
    const auto n = static_cast<std::int64_t>(wide.size());
    return is_wide ? make_view(wide.data(), DType::i64, {n})
                   : make_view(narrow.data(), DType::i32, {n});
  }
};

/// Rows of increasing columns, possibly broken afterwards.
struct Structure {
  std::int64_t rows, cols;
  std::vector<std::int64_t> indptr{0}, indices;
  std::int64_t entries;  // in the array of values

  explicit Structure(Source& source) : rows(source.below(9)), cols(source.below(40)) {
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = source.below(4); j < cols; j += 1 + source.below(9)) {
        indices.push_back(j);
      }
      indptr.push_back(static_cast<std::int64_t>(indices.size()));
    }
    entries = static_cast<std::int64_t>(indices.size());
    if (source.one_in(2)) {
      for (std::int64_t n = 1 + source.below(3); n > 0; --n) damage(source);
    }
  }

  [[nodiscard]] bool valid() const {
    if (rows < 0 || cols < 0) return false;
    if (static_cast<std::int64_t>(indptr.size()) != rows + 1 || indptr.front() != 0) return false;
    if (indptr.back() != entries || static_cast<std::int64_t>(indices.size()) != entries) {
      return false;
    }
    for (std::size_t i = 0; i + 1 < indptr.size(); ++i) {
      if (indptr[i] > indptr[i + 1] || indptr[i + 1] > entries) return false;
      for (auto p = indptr[i]; p < indptr[i + 1]; ++p) {
        const auto q = static_cast<std::size_t>(p);
        if (indices[q] < 0 || indices[q] >= cols) return false;
        if (p > indptr[i] && indices[q] <= indices[q - 1]) return false;
      }
    }
    return true;
  }

 private:
  void damage(Source& source) {
    static constexpr std::int64_t kOdd[] = {-1,
                                            0,
                                            1,
                                            2,
                                            39,
                                            40,
                                            41,
                                            1 << 20,
                                            -(1 << 30),
                                            std::numeric_limits<std::int32_t>::max(),
                                            std::numeric_limits<std::int32_t>::min()};
    const std::int64_t number = kOdd[source.below(std::size(kOdd))];
    const auto pick = [&](std::vector<std::int64_t>& from) {
      if (from.empty()) return;
      from[static_cast<std::size_t>(source.below(static_cast<std::int64_t>(from.size())))] = number;
    };
    switch (source.below(6)) {
      case 0:
        return pick(indptr);
      case 1:
        return pick(indices);
      case 2:
        entries = std::max<std::int64_t>(entries + source.below(3) - 1, 0);
        return;
      case 3:
        if (indices.size() > 1) std::swap(indices.front(), indices.back());
        return;
      case 4:
        rows += source.below(3) - 1;
        return;
      default:
        cols += source.below(3) - 1;
    }
  }
};

/// Checks the products of an accepted matrix against those of its dense form; whole numbers are
/// exact.
template <class Matrix>
void use(const Matrix& a, const std::vector<float>& dense) {
  const std::int64_t rows = a.rows(), cols = a.cols();
  for (const std::int64_t n : {1, 3, 17}) {
    std::vector<float> b(static_cast<std::size_t>(cols * n));
    for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 7) - 3;
    std::vector<float> out(static_cast<std::size_t>(rows * n), 99);
    gossamer::spmm(a, make_view(b.data(), DType::f32, {cols, n}),
                   make_view(out.data(), DType::f32, {rows, n}));
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (std::int64_t k = 0; k < cols; ++k) {
          sum += dense[static_cast<std::size_t>(i * cols + k)] *
                 b[static_cast<std::size_t>(k * n + j)];
        }
        check(out[static_cast<std::size_t>(i * n + j)] == sum, "spmm of an accepted matrix");
      }
    }
  }
}

/// Calls make() and returns its result, or nothing if it refuses; it must refuse what is not valid.
template <class Make>
auto made(Make&& make, bool valid) -> std::optional<decltype(make())> {
  try {
    auto matrix = make();
    check(valid, "an invalid matrix was accepted");
    return matrix;
  } catch (const gossamer::ValueError&) {
    check(!valid, "a valid matrix was refused");
    return std::nullopt;
  }
}

std::vector<float> small_integers(std::int64_t n) {
  std::vector<float> values(static_cast<std::size_t>(std::max<std::int64_t>(n, 0)));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 5) - 2;
  return values;
}

/// Matrices whose extents have no relation to their arrays.
void try_extents(const Structure& s, Source& source, bool wide) {
  static constexpr std::int64_t k31 = std::int64_t{1} << 31, k62 = std::int64_t{1} << 62,
                                kMost = std::numeric_limits<std::int64_t>::max();
  static constexpr std::int64_t kOdd[] = {-kMost - 1, -k62,    -1,  0,       k31 - 2,   k31 - 1,
                                          k31,        k62 - 1, k62, k62 + 1, kMost - 1, kMost};
  Structure odd = s;
  std::int64_t& side = source.one_in(2) ? odd.rows : odd.cols;
  side = kOdd[source.below(std::size(kOdd))];
  Indices indptr(odd.indptr, wide), indices(odd.indices, wide);
  const std::vector<float> values = small_integers(odd.entries);
  const bool fits = wide ? odd.cols <= k62 : odd.cols < k31;
  const auto make = [&] {
    return gossamer::Csr(indptr.view(), indices.view(),
                         make_view(values.data(), DType::f32, {odd.entries}), odd.rows, odd.cols);
  };
  // `valid` adds 1 to the rows.
  made(make, odd.rows < k62 && odd.valid() && fits);
}

void try_csr(Source& source) {
  const Structure s(source);
  const bool wide = source.one_in(2);
  if (source.one_in(16)) return try_extents(s, source, wide);
  Indices indptr(s.indptr, wide), indices(s.indices, wide);
  const std::vector<float> values = small_integers(s.entries);
  const auto a = made(
      [&] {
        return gossamer::Csr(indptr.view(), indices.view(),
                             make_view(values.data(), DType::f32, {s.entries}), s.rows, s.cols);
      },
      s.valid());
  if (!a) return;
  std::vector<float> dense(static_cast<std::size_t>(s.rows * s.cols));
  gossamer::csr_to_dense(*a, make_view(dense.data(), DType::f32, {s.rows, s.cols}));
  use(*a, dense);
  use(gossamer::pack(*a), dense);

  Indices indptr_t(std::vector<std::int64_t>(static_cast<std::size_t>(s.cols + 1)), wide);
  Indices indices_t(s.indices, wide), permutation(s.indices, wide);
  std::vector<float> values_t(values.size());
  const auto values_view = make_view(values_t.data(), DType::f32, {s.entries});
  gossamer::csr_transpose(*a, indptr_t.view(), indices_t.view(), values_view, permutation.view());
  const gossamer::Csr transposed(indptr_t.view(), indices_t.view(), values_view, s.cols, s.rows);
  std::vector<float> dense_t(dense.size());
  gossamer::csr_to_dense(transposed, make_view(dense_t.data(), DType::f32, {s.cols, s.rows}));
  for (std::int64_t i = 0; i < s.rows; ++i) {
    for (std::int64_t j = 0; j < s.cols; ++j) {
      check(dense[static_cast<std::size_t>(i * s.cols + j)] ==
                dense_t[static_cast<std::size_t>(j * s.rows + i)],
            "csr_transpose of an accepted matrix");
    }
  }
}

/// A list of coordinates, a few of which may lie outside or be repeated.
void try_coo(Source& source) {
  const std::int64_t rows = source.below(9), cols = source.below(40);
  const std::int64_t n = rows * cols > 0 ? source.below(30) : 0;
  const bool odd = source.one_in(8), wide = source.one_in(2), sum = source.one_in(2);
  std::vector<std::int64_t> row, col;
  std::vector<float> dense(static_cast<std::size_t>(rows * cols));
  std::vector<bool> taken(dense.size());
  const std::vector<float> values = small_integers(n);
  bool inside = true, repeated = false;
  for (std::int64_t p = 0; p < n; ++p) {
    row.push_back(source.below(rows) - (odd && source.one_in(16)));
    col.push_back(source.below(cols) + (odd && source.one_in(16) ? cols : 0));
    if (row.back() < 0 || col.back() >= cols) {
      inside = false;
      continue;
    }
    const auto at = static_cast<std::size_t>(row.back() * cols + col.back());
    repeated = repeated || taken[at];
    taken[at] = true;
    dense[at] += values[static_cast<std::size_t>(p)];
  }
  Indices row_list(row, source.one_in(2)), col_list(col, source.one_in(2));
  Indices indptr(std::vector<std::int64_t>(static_cast<std::size_t>(rows + 1), 99), wide);
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  const auto order_view = make_view(order.data(), DType::i64, {n});
  const auto duplicates = sum ? gossamer::Duplicates::sum : gossamer::Duplicates::refuse;
  const auto nnz = made(
      [&] {
        return gossamer::csr_from_coo_count(row_list.view(), col_list.view(), rows, cols,
                                            duplicates, order_view, indptr.view());
      },
      inside && (sum || !repeated));
  if (!nnz) return;
  Indices indices(std::vector<std::int64_t>(static_cast<std::size_t>(*nnz)), wide);
  std::vector<float> sums(static_cast<std::size_t>(*nnz));
  const auto sums_view = make_view(sums.data(), DType::f32, {*nnz});
  gossamer::csr_from_coo_fill(row_list.view(), col_list.view(),
                              make_view(values.data(), DType::f32, {n}), order_view, indptr.view(),
                              indices.view(), sums_view);
  const gossamer::Csr a(indptr.view(), indices.view(), sums_view, rows, cols);
  std::vector<float> back(dense.size());
  gossamer::csr_to_dense(a, make_view(back.data(), DType::f32, {rows, cols}));
  check(back == dense, "the matrix of a list of coordinates");
  use(a, dense);
}

void try_bsr(Source& source) {
  const Structure s(source);
  const std::int64_t br = 1 + source.below(5), bc = 1 + source.below(17);
  const std::int64_t rows = s.rows * br + (br > 1 && source.one_in(20)), cols = s.cols * bc;
  const bool wide = source.one_in(2), valid = s.valid() && rows % br == 0;
  Indices indptr(s.indptr, wide), indices(s.indices, wide);
  const std::vector<float> blocks = small_integers(s.entries * br * bc);
  const auto a = made(
      [&] {
        return gossamer::Bsr(indptr.view(), indices.view(),
                             make_view(blocks.data(), DType::f32, {s.entries, br, bc}), rows, cols);
      },
      valid);
  if (!a) return;
  std::vector<float> dense(static_cast<std::size_t>(rows * cols));
  gossamer::bsr_to_dense(*a, make_view(dense.data(), DType::f32, {rows, cols}));
  use(*a, dense);
}

/// An array of positions of a few bits each, whole bytes a line.
void try_nm(Source& source) {
  const std::int64_t m = 1 + source.below(33), n = source.below(m + 2);
  const int axis = static_cast<int>(source.below(2)), bits = m > 1 ? gossamer::Nm::bits_of(m) : 0;
  const std::int64_t groups = source.below(6), lines = source.below(5), slots = groups * n;
  const std::int64_t bytes = (slots * bits + 7) / 8, length = groups * m;
  std::vector<std::int64_t> position(static_cast<std::size_t>(lines * slots));
  bool valid = m <= 32 && n >= 1 && n <= m;
  for (std::int64_t i = 0; i < lines * slots; ++i) {
    // Mostly one more than the one before it in its group.
    const bool first = i % n == 0;
    const std::int64_t before = first ? -1 : position[static_cast<std::size_t>(i - 1)];
    const std::int64_t room = (std::int64_t{1} << bits) - 1;
    const std::int64_t p = source.one_in(60) ? source.below(room + 1) : std::min(before + 1, room);
    position[static_cast<std::size_t>(i)] = p;
    valid = valid && p < m && (first || p > before);
  }
  std::vector<std::uint8_t> indices(static_cast<std::size_t>(lines * bytes));
  for (std::int64_t line = 0; line < lines; ++line) {
    for (std::int64_t s = 0; s < slots; ++s) {
      const std::int64_t p = position[static_cast<std::size_t>(line * slots + s)];
      for (int b = 0; b < bits; ++b) {
        if ((p >> b & 1) == 0) continue;
        std::uint8_t& byte = indices[static_cast<std::size_t>(line * bytes + (s * bits + b) / 8)];
        byte = static_cast<std::uint8_t>(byte | 1 << ((s * bits + b) % 8));
      }
    }
  }
  const std::vector<float> values = small_integers(lines * slots);
  const std::int64_t rows = axis == 1 ? lines : length, cols = axis == 1 ? length : lines;
  const auto a = made(
      [&] {
        return gossamer::Nm(make_view(values.data(), DType::f32, {lines, slots}),
                            make_view(indices.data(), DType::u8, {lines, bytes}), rows, cols, n, m,
                            axis);
      },
      valid);
  if (!a) return;
  std::vector<float> dense(static_cast<std::size_t>(rows * cols)), back(dense.size());
  for (std::int64_t i = 0; i < lines * slots; ++i) {
    const std::int64_t line = i / slots,
                       e = i % slots / n * m + position[static_cast<std::size_t>(i)];
    dense[static_cast<std::size_t>(axis == 1 ? line * cols + e : e * cols + line)] =
        values[static_cast<std::size_t>(i)];
  }
  gossamer::nm_to_dense(*a, make_view(back.data(), DType::f32, {rows, cols}));
  check(back == dense, "nm_to_dense of an accepted matrix");
  use(*a, dense);
}

void try_quant(Source& source) {
  Structure s(source);
  for (std::int64_t& i : s.indices) i &= 0xffff;  // what the array can hold
  const std::int64_t bits = source.one_in(2) ? 4 : 8, group = std::int64_t{16} << source.below(4);
  // The last group of a row may have fewer columns.
  const std::int64_t cols = s.cols * group - (s.cols > 0 ? source.below(group) : 0);
  std::vector<std::uint16_t> indices, scales(static_cast<std::size_t>(s.entries), 0x3c00);
  bool valid = s.valid();
  for (const std::int64_t i : s.indices) indices.push_back(static_cast<std::uint16_t>(i));
  std::vector<std::uint8_t> zeros(scales.size()), codes(scales.size() * 128);
  for (auto& z : zeros) z = static_cast<std::uint8_t>(source.below(bits == 4 ? 17 : 256));
  for (const auto z : zeros) valid = valid && z < (1 << bits);
  if (!scales.empty() && source.one_in(10)) {
    scales.back() = 0x7c00;
    valid = false;
  }
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i % 251);
  Indices indptr(s.indptr, false);
  const auto count = static_cast<std::int64_t>(indices.size());
  const auto a = made(
      [&] {
        return gossamer::GroupQuant(
            indptr.view(), make_view(indices.data(), DType::u16, {count}),
            make_view(codes.data(), DType::u8, {s.entries, group * bits / 8}),
            make_view(scales.data(), DType::f16, {s.entries}),
            make_view(zeros.data(), DType::u8, {s.entries}),
            {.rows = s.rows, .cols = cols, .group = group, .bits = bits, .dtype = DType::f32});
      },
      valid);
  if (!a) return;
  std::vector<float> dense(static_cast<std::size_t>(s.rows * cols));
  gossamer::quant_to_dense(*a, make_view(dense.data(), DType::f32, {s.rows, cols}));
  use(*a, dense);
}

/// A layout of one head, whose blocks are rows and columns of the structure; attention over it must
/// stay within its arrays and find the mean of the values that each query sees.
void try_layout(Source& source) {
  Structure s(source);
  s.indices.resize(static_cast<std::size_t>(s.entries));  // one array alone has entries
  const std::int64_t br = 1 + source.below(4), bc = 1 + source.below(20);
  const bool valid = s.valid();
  Indices indptr(s.indptr, false), indices(s.indices, false);
  const auto layout = made(
      [&] {
        return gossamer::BlockLayout(indptr.view(), indices.view(), {}, {},
                                     {.batch = 1, .heads = 1, .rows = s.rows, .cols = s.cols},
                                     {.rows = br, .cols = bc});
      },
      valid);
  if (!layout || s.rows == 0 || s.cols == 0) return;
  const std::int64_t queries = s.rows * br - source.below(br);
  const std::int64_t keys = s.cols * bc - source.below(bc);
  std::vector<float> q(static_cast<std::size_t>(queries)), k(static_cast<std::size_t>(keys), 1);
  std::vector<float> v(k.size()), o(q.size(), 99), lse(q.size());
  for (std::size_t j = 0; j < v.size(); ++j) v[j] = static_cast<float>(j % 8);
  const auto of = [](std::vector<float>& x) {
    return make_view(x.data(), DType::f32, {1, static_cast<std::int64_t>(x.size()), 1, 1});
  };
  gossamer::attention(of(q), of(k), of(v), *layout, {}, of(o),
                      make_view(lse.data(), DType::f32, {1, 1, queries}));
  for (std::int64_t i = 0; i < queries; ++i) {
    double sum = 0, count = 0;
    const auto r = static_cast<std::size_t>(i / br);
    for (std::int64_t p = s.indptr[r]; p < s.indptr[r + 1]; ++p) {
      for (std::int64_t j = 0; j < bc; ++j) {
        const std::int64_t key = s.indices[static_cast<std::size_t>(p)] * bc + j;
        if (key >= keys) continue;
        sum += static_cast<double>(key % 8);
        count += 1;
      }
    }
    const double want = count > 0 ? sum / count : 0;
    check(std::abs(o[static_cast<std::size_t>(i)] - want) < 1e-4, "attention over a layout");
  }
}

/// Lists of pages, a few of whose numbers may be wrong.
void try_pages(Source& source) {
  Structure s(source);
  s.indices.resize(static_cast<std::size_t>(s.entries));
  const std::int64_t page = 1 + source.below(4), heads = 1 + source.below(3);
  const bool valid = s.indptr.front() == 0 && s.indptr.back() == s.entries &&
                     static_cast<std::int64_t>(s.indptr.size()) == s.rows + 1 &&
                     std::is_sorted(s.indptr.begin(), s.indptr.end()) &&
                     std::all_of(s.indices.begin(), s.indices.end(),
                                 [&](std::int64_t i) { return i >= 0 && i < s.cols; });
  if (s.rows < 0 || s.cols < 0) return;
  Indices indptr(s.indptr, false), indices(s.indices, false);
  std::vector<float> q(static_cast<std::size_t>(s.rows * heads)), o(q.size()), lse(q.size());
  std::vector<float> cache(static_cast<std::size_t>(s.cols * page), 1);
  const auto keys = make_view(cache.data(), DType::f32, {s.cols, page, 1, 1});
  const auto result = make_view(o.data(), DType::f32, {s.rows, 1, heads, 1});
  try {
    gossamer::attention_decode(make_view(q.data(), DType::f32, {s.rows, 1, heads, 1}), keys, keys,
                               {.indptr = indptr.view(), .indices = indices.view(), .lengths = {}},
                               {}, result, make_view(lse.data(), DType::f32, {s.rows, heads, 1}));
    check(valid, "wrong lists were accepted");
  } catch (const gossamer::ValueError&) {
    check(!valid, "right lists were refused");
  }
}

void one_case(std::span<const std::uint8_t> bytes) {
  Source source(bytes);
  switch (source.below(7)) {
    case 0:
      return try_csr(source);
    case 1:
      return try_bsr(source);
    case 2:
      return try_nm(source);
    case 3:
      return try_quant(source);
    case 4:
      return try_layout(source);
    case 5:
      return try_pages(source);
    default:
      return try_coo(source);
  }
}

}  // namespace

#if defined(GOSSAMER_LIBFUZZER)
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  one_case({data, size});
  return 0;
}
#else
int main(int argc, char** argv) {
  const long long cases = argc > 1 ? std::atoll(argv[1]) : 30000;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  std::vector<std::uint8_t> bytes(600);
  for (long long i = 0; i < cases; ++i) {
    // SplitMix64, which needs no state between cases: a case is found again by its number.
    std::uint64_t state = seed * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(i);
    for (std::uint8_t& b : bytes) {
      state += 0x9e3779b97f4a7c15u;
      std::uint64_t x = state;
      x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
      x = (x ^ x >> 27) * 0x94d049bb133111ebu;
      b = static_cast<std::uint8_t>(x >> 56);
    }
    one_case(bytes);
  }
}
#endif
