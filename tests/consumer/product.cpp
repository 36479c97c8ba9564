// Each operation once, on a matrix small enough to check by hand.
#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "check.h"
#include "gossamer/gossamer.h"

namespace {

using gossamer::Csr;
using gossamer::DType;
using gossamer::make_view;

// A = [1 0 2]
//     [0 0 3]
const std::array<std::int32_t, 3> kIndptr = {0, 2, 3};
const std::array<std::int32_t, 3> kIndices = {0, 2, 2};
const std::array<float, 3> kValues = {1, 2, 3};

Csr matrix() {
  return Csr(make_view(kIndptr.data(), DType::i32, {3}),
             make_view(kIndices.data(), DType::i32, {3}),
             make_view(kValues.data(), DType::f32, {3}), 2, 3);
}

void spmm_is_the_matrix_product() {
  const std::array<float, 6> b = {1, 2, 3, 4, 5, 6};
  const std::array<float, 4> expected = {11, 14, 15, 18};
  std::array<float, 4> out = {};
  gossamer::spmm(matrix(), make_view(b.data(), DType::f32, {3, 2}),
                 make_view(out.data(), DType::f32, {2, 2}));
  check(out == expected, "spmm(a, b)");
  out = {};
  gossamer::spmm(gossamer::pack(matrix()), make_view(b.data(), DType::f32, {3, 2}),
                 make_view(out.data(), DType::f32, {2, 2}));
  check(out == expected, "spmm(pack(a), b)");
}

void transpose_a_multiplies_by_the_transpose() {
  const std::array<float, 2> b = {10, 100};
  std::array<float, 3> out = {7, 7, 7};
  gossamer::spmm(matrix(), make_view(b.data(), DType::f32, {2}),
                 make_view(out.data(), DType::f32, {3}), true);
  check(out == std::array<float, 3>{10, 0, 320}, "spmm(a, b, transpose_a)");
}

void linear_adds_bias_and_activates() {
  const std::array<float, 6> x = {1, 2, 3, -1, -2, -3};
  const std::array<float, 2> bias = {0.5F, 10};
  std::array<float, 4> out = {};
  gossamer::Epilogue epilogue;
  epilogue.bias = make_view(bias.data(), DType::f32, {2});
  epilogue.activation = gossamer::Activation::relu;
  gossamer::linear(make_view(x.data(), DType::f32, {2, 3}), matrix(),
                   make_view(out.data(), DType::f32, {2, 2}), epilogue);
  check(out == std::array<float, 4>{7.5F, 19, 0, 1}, "linear(x, w, bias, relu)");
}

void sddmm_samples_the_product() {
  const std::array<float, 4> a = {1, 2, 3, 4};
  const std::array<float, 6> b = {1, 1, 2, 2, 3, 3};
  std::array<float, 3> out = {};
  gossamer::sddmm(make_view(a.data(), DType::f32, {2, 2}), make_view(b.data(), DType::f32, {3, 2}),
                  matrix(), make_view(out.data(), DType::f32, {3}));
  check(out == std::array<float, 3>{3, 9, 21}, "sddmm(a, b, pattern)");
}

void attention_averages_the_values_of_a_row() {
  const std::array<float, 2> q = {1, 2};
  const std::array<float, 3> k = {1, 2, 3};
  const std::array<float, 6> v = {1, 10, 2, 20, 3, 30};
  std::array<float, 4> out = {};
  std::array<float, 2> lse = {};
  gossamer::csr_attention(
      make_view(q.data(), DType::f32, {2, 1}), make_view(k.data(), DType::f32, {3, 1}),
      make_view(v.data(), DType::f32, {3, 2}), matrix(), make_view(out.data(), DType::f32, {2, 2}),
      make_view(lse.data(), DType::f32, {2}), {.scale = 0.0});
  check(out == std::array<float, 4>{2, 20, 3, 30}, "csr_attention(q, k, v, pattern)");
}

void gradients_are_those_of_linear() {
  const std::array<float, 2> dy = {10, 100};
  const std::array<float, 3> x = {1, 2, 3};
  std::array<float, 3> dx = {}, dvalues = {};
  std::array<float, 2> dbias = {1, 2};
  gossamer::linear_backward(make_view(dy.data(), DType::f32, {1, 2}),
                            make_view(x.data(), DType::f32, {1, 3}), matrix(),
                            {.dense = make_view(dx.data(), DType::f32, {1, 3}),
                             .values = make_view(dvalues.data(), DType::f32, {3}),
                             .bias = make_view(dbias.data(), DType::f32, {2})});
  check(dx == std::array<float, 3>{10, 0, 320}, "linear_backward: dx");
  check(dvalues == std::array<float, 3>{10, 30, 300}, "linear_backward: dvalues");
  check(dbias == std::array<float, 2>{10, 100}, "linear_backward: dbias");
}

void groups_multiply_like_their_matrix() {
  const std::array<float, 8> w = {1, 0, 2, 0, 0, 0, 0, 3};
  std::array<float, 4> values = {};
  std::array<std::uint8_t, 2> indices = {};
  const auto kept = make_view(values.data(), DType::f32, {2, 2});
  const auto places = make_view(indices.data(), DType::u8, {2, 1});
  gossamer::nm_pack(make_view(w.data(), DType::f32, {2, 4}), std::nullopt, 2, 4, 1, kept, places);
  check(values == std::array<float, 4>{1, 2, 0, 3}, "nm_pack: values");
  check(indices == std::array<std::uint8_t, 2>{0b1000, 0b1100}, "nm_pack: indices");
  const gossamer::Nm a(kept, places, 2, 4, 2, 4, 1);
  const std::array<float, 4> b = {1, 10, 100, 1000};
  std::array<float, 2> out = {};
  gossamer::spmm(a, make_view(b.data(), DType::f32, {4}), make_view(out.data(), DType::f32, {2}));
  check(out == std::array<float, 2>{201, 3000}, "spmm of N:M");
}

void blocks_multiply_like_their_matrix() {
  const std::array<std::int32_t, 2> indptr = {0, 1};
  const std::array<std::int32_t, 1> indices = {1};
  const std::array<float, 4> blocks = {1, 2, 3, 4};
  const gossamer::Bsr a(make_view(indptr.data(), DType::i32, {2}),
                        make_view(indices.data(), DType::i32, {1}),
                        make_view(blocks.data(), DType::f32, {1, 2, 2}), 2, 4);
  const std::array<float, 4> b = {9, 9, 1, 10};
  std::array<float, 2> out = {};
  gossamer::spmm(a, make_view(b.data(), DType::f32, {4}), make_view(out.data(), DType::f32, {2}));
  check(out == std::array<float, 2>{21, 43}, "spmm(bsr, b)");
}

void only_large_activations_are_multiplied() {
  const std::array<float, 3> x = {0.5F, -3, 2};
  const std::array<float, 6> wt = {1, 2, 3, 4, 5, 6};
  std::array<float, 2> out = {};
  gossamer::sparse_linear(make_view(x.data(), DType::f32, {3}),
                          make_view(wt.data(), DType::f32, {3, 2}), {.value = 1.0},
                          make_view(out.data(), DType::f32, {2}));
  check(out == std::array<float, 2>{1, 0}, "sparse_linear(x, wt, threshold)");
  const std::array<float, 4> w = {1, 0, 0, 3};
  const std::array<float, 2> y = {1, 2};
  const auto weights = make_view(w.data(), DType::f32, {2, 2});
  gossamer::gated_mlp(make_view(y.data(), DType::f32, {2}), weights, weights, weights,
                      {.value = 2.0}, make_view(out.data(), DType::f32, {2}),
                      {.activation = gossamer::Activation::relu});
  check(out == std::array<float, 2>{0, 108}, "gated_mlp(x, w_gate, w_up, w_down_t, threshold)");
  std::array<float, 3> last = {};
  std::array<float, 2> sums = {};
  const std::int64_t sent = gossamer::delta_linear(
      make_view(x.data(), DType::f32, {3}), make_view(wt.data(), DType::f32, {3, 2}),
      {.last = make_view(last.data(), DType::f32, {3}),
       .sums = make_view(sums.data(), DType::f32, {2})},
      {.value = 1.0}, make_view(out.data(), DType::f32, {2}));
  check(sent == 2 && last == std::array<float, 3>{0, -3, 2} && sums == out, "delta_linear");
}

void decoding_adds_rows_of_a_table() {
  const std::array<float, 6> table = {1, 0, 0, 1, 5, 5};
  const std::array<std::int32_t, 2> indices = {2, 0};
  const std::array<float, 2> values = {2, 1}, grad = {1, 10};
  std::array<float, 2> out = {}, d_values = {};
  std::array<float, 6> d_table = {};
  const auto rows = make_view(indices.data(), DType::i32, {1, 2});
  const auto weights = make_view(values.data(), DType::f32, {1, 2});
  const auto matrix = make_view(table.data(), DType::f32, {3, 2});
  gossamer::gather_decode(rows, weights, matrix, make_view(out.data(), DType::f32, {1, 2}));
  check(out == std::array<float, 2>{11, 10}, "gather_decode");
  gossamer::gather_decode_backward(make_view(grad.data(), DType::f32, {1, 2}), rows, weights,
                                   matrix, make_view(d_values.data(), DType::f32, {1, 2}),
                                   make_view(d_table.data(), DType::f32, {3, 2}));
  check(d_values == std::array<float, 2>{55, 1} &&
            d_table == std::array<float, 6>{1, 10, 0, 0, 2, 20},
        "gather_decode_backward");
}

void attention_keeps_to_its_blocks() {
  // Two queries and keys of one number; each query sees its own key alone.
  const std::array<std::uint8_t, 4> mask = {1, 0, 0, 1};
  std::array<std::int32_t, 3> indptr = {};
  std::array<std::int32_t, 2> indices = {};
  const gossamer::BlockMask source{make_view(mask.data(), DType::u8, {1, 1, 2, 2})};
  const auto pointers = make_view(indptr.data(), DType::i32, {3});
  check(gossamer::layout_count(source, pointers).blocks == 2, "layout_count");
  const auto columns = make_view(indices.data(), DType::i32, {2});
  gossamer::layout_fill(source, {.indptr = pointers, .indices = columns});
  const gossamer::BlockLayout layout(pointers, columns, {}, {}, gossamer::layout_shape(source),
                                     {.rows = 1, .cols = 1});
  const std::array<float, 2> q = {1, 2}, v = {5, 7};
  std::array<float, 2> o = {}, lse = {}, dq = {}, dk = {}, dv = {};
  const auto view = [](auto& array) { return make_view(array.data(), DType::f32, {1, 2, 1, 1}); };
  const auto log = make_view(lse.data(), DType::f32, {1, 1, 2});
  gossamer::attention(view(q), view(q), view(v), layout, {}, view(o), log);
  check(o == v && lse == std::array<float, 2>{1, 4}, "attention(q, k, v, layout)");
  gossamer::attention_backward({.d_o = view(q), .o = view(o), .lse = log}, view(q), view(q),
                               view(v), layout, {},
                               {.dq = view(dq), .dk = view(dk), .dv = view(dv)});
  check(dv == q && dq == std::array<float, 2>{0, 0}, "attention_backward");
}

void bad_structure_is_refused() {
  const std::array<std::int32_t, 3> unsorted = {2, 0, 2};
  bool refused = false;
  try {
    const Csr bad(make_view(kIndptr.data(), DType::i32, {3}),
                  make_view(unsorted.data(), DType::i32, {3}),
                  make_view(kValues.data(), DType::f32, {3}), 2, 3);
  } catch (const gossamer::ValueError&) {
    refused = true;
  }
  check(refused, "unsorted columns throw ValueError");
}

}  // namespace

int main() {
  check(!std::string(gossamer::version()).empty(), "version");
  spmm_is_the_matrix_product();
  transpose_a_multiplies_by_the_transpose();
  linear_adds_bias_and_activates();
  sddmm_samples_the_product();
  attention_averages_the_values_of_a_row();
  gradients_are_those_of_linear();
  groups_multiply_like_their_matrix();
  blocks_multiply_like_their_matrix();
  only_large_activations_are_multiplied();
  decoding_adds_rows_of_a_table();
  attention_keeps_to_its_blocks();
  bad_structure_is_refused();
}
