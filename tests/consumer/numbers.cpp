// What processors have instructions of their own for: conversions of 16-bit numbers, positions and
// codes of a few bits, dot products of bfloat16. Each is compared with plain arithmetic, so that a
// level or an architecture whose kernels differ is seen here, where no Python runs.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "check.h"
#include "gossamer/gossamer.h"

namespace {

using gossamer::DType;
using gossamer::make_view;

template <class T>
gossamer::TensorView view(std::vector<T>& x, DType type,
                          std::initializer_list<std::int64_t> shape) {
  return make_view(x.data(), type, shape);
}

std::uint32_t next(std::uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

/// Every 16-bit number but NaN comes back from a product with 1, whatever it is widened to between.
void halves_come_back(DType type, std::uint16_t infinity) {
  std::vector<std::uint16_t> b(1 << 16), out(b.size());
  for (std::size_t i = 0; i < b.size(); ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    b[i] = (bits & 0x7fff) > infinity ? std::uint16_t{0} : bits;
    if (bits == 0x8000) b[i] = 0;  // 0 + -0 is 0
  }
  std::vector<std::int32_t> indptr = {0, 1}, indices = {0};
  std::vector<std::uint16_t> one = {type == DType::f16 ? std::uint16_t{0x3c00}
                                                       : std::uint16_t{0x3f80}};
  const gossamer::Csr a(view(indptr, DType::i32, {2}), view(indices, DType::i32, {1}),
                        view(one, type, {1}), 1, 1);
  const auto n = static_cast<std::int64_t>(b.size());
  gossamer::spmm(a, view(b, type, {1, n}), view(out, type, {1, n}));
  check(out == b, "all 16-bit numbers come back");
}

/// The float16 or bfloat16 next to x, ties to even: the type has `digits` bits behind the leading
/// one, and no number of the test is beyond its normal range.
float rounded(float x, int digits) {
  int exponent = 0;
  static_cast<void>(std::frexp(x, &exponent));
  const double unit = std::ldexp(1.0, exponent - 1 - digits);
  return static_cast<float>(std::nearbyint(x / unit) * unit);
}

std::uint16_t bits_of(float x, DType type) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  if (type == DType::bf16) return static_cast<std::uint16_t>(u >> 16);
  const std::uint32_t magnitude = u & 0x7fffffffu;
  return static_cast<std::uint16_t>((u >> 16 & 0x8000u) |
                                    (magnitude == 0 ? 0u : (magnitude - 0x38000000u) >> 13));
}

/// Sums that fall between two 16-bit numbers are rounded to the nearest, ties to even.
void sums_are_rounded(DType type, int digits) {
  std::vector<std::uint16_t> b(2 * 4099), out(4099);
  std::vector<std::uint16_t> want(out.size());
  std::uint32_t state = 7;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float x = rounded(1.0f + static_cast<float>(next(state) % 4096) / 4096.0f, digits);
    const float y = rounded((1.0f + static_cast<float>(next(state) % 4096) / 4096.0f) / 64, digits);
    b[i] = bits_of(x, type);
    b[out.size() + i] = bits_of(y, type);
    want[i] = bits_of(rounded(x + y, digits), type);
  }
  std::vector<std::int32_t> indptr = {0, 2}, indices = {0, 1};
  std::vector<std::uint16_t> ones(2, bits_of(1.0f, type));
  const gossamer::Csr a(view(indptr, DType::i32, {2}), view(indices, DType::i32, {2}),
                        view(ones, type, {2}), 1, 2);
  const auto n = static_cast<std::int64_t>(out.size());
  gossamer::spmm(a, view(b, type, {2, n}), view(out, type, {1, n}));
  check(out == want, "sums are rounded to nearest, ties to even");
}

/// Any N:M matrix multiplies as its dense form, along both axes.
void positions_are_read(std::int64_t m, int axis) {
  const std::int64_t n = (m + 1) / 2, groups = 9, lines = 21, length = groups * m;
  const std::int64_t rows = axis == 1 ? lines : length, cols = axis == 1 ? length : lines;
  std::vector<float> dense(static_cast<std::size_t>(lines * length)), back(dense.size());
  std::uint32_t state = static_cast<std::uint32_t>(m);
  for (std::int64_t line = 0; line < lines; ++line) {
    for (std::int64_t g = 0; g < groups; ++g) {
      for (std::int64_t s = 0; s < n; ++s) {
        const std::int64_t e = g * m + next(state) % m;
        const std::int64_t at = axis == 1 ? line * cols + e : e * cols + line;
        dense[static_cast<std::size_t>(at)] = static_cast<float>(next(state) % 7) - 3;
      }
    }
  }
  const auto w = view(dense, DType::f32, {rows, cols});
  const gossamer::NmShape shape = gossamer::nm_shape(rows, cols, n, m, axis);
  std::vector<float> values(static_cast<std::size_t>(shape.lines * shape.slots));
  std::vector<std::uint8_t> indices(static_cast<std::size_t>(shape.lines * shape.index_bytes));
  const auto v = view(values, DType::f32, {shape.lines, shape.slots});
  const auto p = view(indices, DType::u8, {shape.lines, shape.index_bytes});
  gossamer::nm_pack(w, std::nullopt, n, m, axis, v, p);
  const gossamer::Nm a(v, p, rows, cols, n, m, axis);
  gossamer::nm_to_dense(a, view(back, DType::f32, {rows, cols}));
  check(back == dense, "nm_to_dense");
  for (const std::int64_t width : {1, 5, 16}) {
    std::vector<float> b(static_cast<std::size_t>(cols * width));
    for (float& x : b) x = static_cast<float>(next(state) % 5) - 2;
    std::vector<float> out(static_cast<std::size_t>(rows * width)), want(out.size());
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t k = 0; k < cols; ++k) {
        for (std::int64_t j = 0; j < width; ++j) {
          want[static_cast<std::size_t>(i * width + j)] +=
              dense[static_cast<std::size_t>(i * cols + k)] *
              b[static_cast<std::size_t>(k * width + j)];
        }
      }
    }
    gossamer::spmm(a, view(b, DType::f32, {cols, width}), view(out, DType::f32, {rows, width}));
    check(out == want, "spmm(Nm)");
  }
}

/// Codes of 4 and 8 bits are the numbers that the formula says, and multiply so.
void codes_are_read(std::int64_t bits, std::int64_t group) {
  const std::int64_t groups = 5, cols = groups * group, bytes = group * bits / 8;
  std::vector<std::int32_t> indptr = {0, 5};
  std::vector<std::uint16_t> indices = {0, 1, 2, 3, 4};
  std::vector<std::uint16_t> scales = {0x3c00, 0x3800, 0x4000, 0x3400, 0x4400};  // 1 1/2 2 1/4 4
  const double scale[] = {1, 0.5, 2, 0.25, 4};
  std::vector<std::uint8_t> zeros(5), codes(static_cast<std::size_t>(groups * bytes));
  std::uint32_t state = static_cast<std::uint32_t>(group + bits);
  for (auto& z : zeros) z = static_cast<std::uint8_t>(next(state) % (1u << bits));
  for (auto& c : codes) c = static_cast<std::uint8_t>(next(state));
  std::vector<float> want(static_cast<std::size_t>(cols)), dense(want.size());
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto at = static_cast<std::size_t>(g);
    for (std::int64_t j = 0; j < group; ++j) {
      const std::uint8_t byte = codes[static_cast<std::size_t>(g * bytes + j * bits / 8)];
      const int code = bits == 8 ? byte : byte >> (4 * (j % 2)) & 15;
      want[static_cast<std::size_t>(g * group + j)] =
          static_cast<float>((code - zeros[at]) * scale[at]);
    }
  }
  const gossamer::GroupQuant a(
      view(indptr, DType::i32, {2}), view(indices, DType::u16, {groups}),
      view(codes, DType::u8, {groups, bytes}), view(scales, DType::f16, {groups}),
      view(zeros, DType::u8, {groups}),
      {.rows = 1, .cols = cols, .group = group, .bits = bits, .dtype = DType::f32});
  gossamer::quant_to_dense(a, view(dense, DType::f32, {1, cols}));
  check(dense == want, "quant_to_dense");
  for (const std::int64_t width : {1, 3, 16}) {
    std::vector<float> b(static_cast<std::size_t>(cols * width));
    for (float& x : b) x = static_cast<float>(next(state) % 5) - 2;
    std::vector<float> out(static_cast<std::size_t>(width)), sum(out.size());
    for (std::size_t i = 0; i < b.size(); ++i) {
      sum[i % sum.size()] += want[i / sum.size()] * b[i];
    }
    gossamer::spmm(a, view(b, DType::f32, {cols, width}), view(out, DType::f32, {1, width}));
    check(out == sum, "spmm(GroupQuant)");
  }
}

/// Attention of bfloat16, in which pairs may be multiplied, against double precision.
void attention_of_bfloat16(std::int64_t depth, std::int64_t tokens) {
  std::vector<std::uint16_t> q(static_cast<std::size_t>(tokens * depth)), k(q), v(q), o(q);
  std::uint32_t state = 3;
  const auto number = [](std::uint16_t bits) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  };
  for (auto* x : {&q, &k, &v}) {
    for (auto& bits : *x) {
      bits = bits_of(rounded(static_cast<float>(next(state) % 4001) / 1000.0f - 2, 7), DType::bf16);
    }
  }
  const std::int64_t blocks = (tokens + 63) / 64;
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(blocks * blocks), 1);
  std::vector<std::int32_t> indptr(static_cast<std::size_t>(blocks + 1)), indices(mask.size());
  const gossamer::BlockMask source{view(mask, DType::u8, {1, 1, blocks, blocks})};
  const auto pointers = view(indptr, DType::i32, {blocks + 1});
  const auto columns = view(indices, DType::i32, {blocks * blocks});
  check(gossamer::layout_count(source, pointers).blocks == blocks * blocks, "layout_count");
  gossamer::layout_fill(source, {.indptr = pointers, .indices = columns});
  const gossamer::BlockLayout layout(pointers, columns, {}, {}, gossamer::layout_shape(source),
                                     {.rows = 64, .cols = 64});
  std::vector<float> lse(static_cast<std::size_t>(tokens));
  const auto of = [&](std::vector<std::uint16_t>& x) {
    return view(x, DType::bf16, {1, tokens, 1, depth});
  };
  gossamer::attention(of(q), of(k), of(v), layout, {}, of(o),
                      view(lse, DType::f32, {1, 1, tokens}));
  for (std::int64_t i = 0; i < tokens; ++i) {
    std::vector<double> p(static_cast<std::size_t>(tokens)), want(static_cast<std::size_t>(depth));
    double total = 0;
    for (std::int64_t j = 0; j < tokens; ++j) {
      double s = 0;
      for (std::int64_t d = 0; d < depth; ++d) {
        s += static_cast<double>(number(q[static_cast<std::size_t>(i * depth + d)])) *
             number(k[static_cast<std::size_t>(j * depth + d)]);
      }
      p[static_cast<std::size_t>(j)] = std::exp(s / std::sqrt(static_cast<double>(depth)));
      total += p[static_cast<std::size_t>(j)];
    }
    check(std::abs(lse[static_cast<std::size_t>(i)] - std::log(total)) < 1e-3, "attention: lse");
    for (std::int64_t d = 0; d < depth; ++d) {
      double sum = 0;
      for (std::int64_t j = 0; j < tokens; ++j) {
        sum += p[static_cast<std::size_t>(j)] / total *
               number(v[static_cast<std::size_t>(j * depth + d)]);
      }
      // Weights and results have 8 bits each.
      const float got = number(o[static_cast<std::size_t>(i * depth + d)]);
      check(std::abs(got - sum) < 0.02, "attention of bfloat16");
    }
  }

  // The gradients against those of the same numbers in float32.
  std::vector<std::uint16_t> slopes[3] = {q, q, q};
  gossamer::attention_backward(
      {.d_o = of(v), .o = of(o), .lse = view(lse, DType::f32, {1, 1, tokens})}, of(q), of(k), of(v),
      layout, {}, {.dq = of(slopes[0]), .dk = of(slopes[1]), .dv = of(slopes[2])});
  std::vector<float> wide[4], want[3];
  const std::vector<std::uint16_t>* narrow[4] = {&q, &k, &v, &o};
  for (std::size_t i = 0; i < 4; ++i) {
    for (const std::uint16_t bits : *narrow[i]) wide[i].push_back(number(bits));
  }
  for (auto& x : want) x.resize(wide[0].size());
  const auto in_float = [&](std::vector<float>& x) {
    return view(x, DType::f32, {1, tokens, 1, depth});
  };
  gossamer::attention_backward(
      {.d_o = in_float(wide[2]),
       .o = in_float(wide[3]),
       .lse = view(lse, DType::f32, {1, 1, tokens})},
      in_float(wide[0]), in_float(wide[1]), in_float(wide[2]), layout, {},
      {.dq = in_float(want[0]), .dk = in_float(want[1]), .dv = in_float(want[2])});
  for (std::size_t i = 0; i < 3; ++i) {
    float most = 1;
    for (const float x : want[i]) most = std::max(most, std::abs(x));
    for (std::size_t e = 0; e < want[i].size(); ++e) {
      check(std::abs(number(slopes[i][e]) - want[i][e]) < 0.03f * most,
            "attention_backward of bfloat16");
    }
  }
}

}  // namespace

int main() {
  halves_come_back(DType::f16, 0x7c00);
  halves_come_back(DType::bf16, 0x7f80);
  sums_are_rounded(DType::f16, 10);
  sums_are_rounded(DType::bf16, 7);
  for (const int axis : {0, 1}) {
    for (const std::int64_t m : {2, 4, 5, 8, 13, 16, 32}) positions_are_read(m, axis);
  }
  for (const std::int64_t group : {16, 32, 128}) {
    codes_are_read(4, group);
    codes_are_read(8, group);
  }
  attention_of_bfloat16(64, 130);
  attention_of_bfloat16(32, 64);
  attention_of_bfloat16(7, 65);
}
