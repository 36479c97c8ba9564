// Conversions of the formats, measures of graphs, the runtime and the probes of the machine, on a
// matrix small enough to check by hand. With product.cpp and prune.cpp, every public function is
// called.
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "check.h"
#include "gossamer/gossamer.h"

namespace {

using gossamer::Bsr;
using gossamer::Csr;
using gossamer::DType;
using gossamer::make_view;

// A = [1 0 0 2]
//     [0 0 3 4]
const std::array<float, 8> kDense = {1, 0, 0, 2, 0, 0, 3, 4};

void csr_converts_both_ways() {
  const auto w = make_view(kDense.data(), DType::f32, {2, 4});
  std::array<std::int32_t, 3> indptr = {};
  const auto rows = make_view(indptr.data(), DType::i32, {3});
  check(gossamer::csr_count(w, std::nullopt, rows) == 4, "csr_count");
  std::array<std::int32_t, 4> indices = {};
  std::array<float, 4> values = {};
  const auto columns = make_view(indices.data(), DType::i32, {4});
  const auto entries = make_view(values.data(), DType::f32, {4});
  gossamer::csr_fill(w, std::nullopt, rows, columns, entries);
  check(indptr == std::array<std::int32_t, 3>{0, 2, 4}, "csr_fill: indptr");
  check(indices == std::array<std::int32_t, 4>{0, 3, 2, 3}, "csr_fill: indices");
  check(values == std::array<float, 4>{1, 2, 3, 4}, "csr_fill: values");

  const Csr a(rows, columns, entries, 2, 4);
  std::array<float, 8> dense = {};
  gossamer::csr_to_dense(a, make_view(dense.data(), DType::f32, {2, 4}));
  check(dense == kDense, "csr_to_dense");

  std::array<std::int32_t, 5> indptr_t = {};
  std::array<std::int32_t, 4> indices_t = {}, permutation = {};
  std::array<float, 4> values_t = {};
  gossamer::csr_transpose(
      a, make_view(indptr_t.data(), DType::i32, {5}), make_view(indices_t.data(), DType::i32, {4}),
      make_view(values_t.data(), DType::f32, {4}), make_view(permutation.data(), DType::i32, {4}));
  check(indptr_t == std::array<std::int32_t, 5>{0, 1, 1, 2, 4}, "csr_transpose: indptr");
  check(indices_t == std::array<std::int32_t, 4>{0, 1, 0, 1}, "csr_transpose: indices");
  check(values_t == std::array<float, 4>{1, 3, 2, 4}, "csr_transpose: values");
  check(permutation == std::array<std::int32_t, 4>{0, 2, 1, 3}, "csr_transpose: permutation");
}

void indices_are_narrowed_where_they_fit() {
  const std::array<std::int64_t, 2> wide = {3, std::int64_t{1} << 40};
  std::array<std::int32_t, 2> narrow = {};
  gossamer::convert_indices(make_view(wide.data(), DType::i64, {1}),
                            make_view(narrow.data(), DType::i32, {1}));
  check(narrow[0] == 3, "convert_indices");
  bool refused = false;
  try {
    gossamer::convert_indices(make_view(wide.data(), DType::i64, {2}),
                              make_view(narrow.data(), DType::i32, {2}));
  } catch (const gossamer::ValueError&) {
    refused = true;
  }
  check(refused, "convert_indices of an index beyond int32 throws ValueError");
}

void bsr_converts_both_ways() {
  const auto w = make_view(kDense.data(), DType::f32, {2, 4});
  const std::array<std::uint8_t, 8> keep = {0, 0, 1, 1, 0, 0, 0, 1};
  const auto mask = make_view(keep.data(), DType::u8, {2, 4});
  std::array<std::int32_t, 2> indptr = {};
  const auto rows = make_view(indptr.data(), DType::i32, {2});
  check(gossamer::bsr_count(w, mask, 2, 2, rows) == 1, "bsr_count");
  std::array<std::int32_t, 1> indices = {};
  std::array<float, 4> blocks = {};
  const auto columns = make_view(indices.data(), DType::i32, {1});
  const auto entries = make_view(blocks.data(), DType::f32, {1, 2, 2});
  gossamer::bsr_fill(w, mask, rows, columns, entries);
  check(indices[0] == 1 && blocks == std::array<float, 4>{0, 2, 0, 4}, "bsr_fill");

  const Bsr a(rows, columns, entries, 2, 4);
  std::array<float, 8> dense = {};
  gossamer::bsr_to_dense(a, make_view(dense.data(), DType::f32, {2, 4}));
  check(dense == std::array<float, 8>{0, 0, 0, 2, 0, 0, 0, 4}, "bsr_to_dense");

  std::array<std::int32_t, 3> indptr_t = {};
  std::array<std::int32_t, 1> indices_t = {}, permutation = {};
  std::array<float, 4> blocks_t = {};
  gossamer::bsr_transpose(a, make_view(indptr_t.data(), DType::i32, {3}),
                          make_view(indices_t.data(), DType::i32, {1}),
                          make_view(blocks_t.data(), DType::f32, {1, 2, 2}),
                          make_view(permutation.data(), DType::i32, {1}));
  check(indptr_t == std::array<std::int32_t, 3>{0, 0, 1}, "bsr_transpose: indptr");
  check(blocks_t == std::array<float, 4>{0, 0, 2, 4}, "bsr_transpose: blocks");
}

// A path 0 - 1 and a loop at 2: [0 2 0], [2 0 0], [0 0 -5].
void graphs_are_measured() {
  const std::array<std::int32_t, 4> indptr = {0, 1, 2, 3};
  const std::array<std::int32_t, 3> indices = {1, 0, 2};
  const std::array<float, 3> values = {2, 2, -5};
  const Csr a(make_view(indptr.data(), DType::i32, {4}), make_view(indices.data(), DType::i32, {3}),
              make_view(values.data(), DType::f32, {3}), 3, 3);
  std::array<float, 3> scores = {}, sums = {};
  gossamer::graph::edge_score(a, make_view(scores.data(), DType::f32, {3}));
  check(scores[0] == 1 && scores[1] == 1 && std::isinf(scores[2]), "graph::edge_score");
  gossamer::graph::strength(a, 1, make_view(sums.data(), DType::f32, {3}));
  check(sums == std::array<float, 3>{2, 2, 5}, "graph::strength");
}

void packed_matrices_say_what_they_are() {
  const std::array<std::int32_t, 3> indptr = {0, 1, 2};
  const std::array<std::int32_t, 2> indices = {0, 2};
  const std::array<float, 2> values = {1, 2};
  const Csr a(make_view(indptr.data(), DType::i32, {3}), make_view(indices.data(), DType::i32, {2}),
              make_view(values.data(), DType::f32, {2}), 2, 3);
  gossamer::Packed p = gossamer::pack(a, {.n = 4});
  check(p.rows() == 2 && p.cols() == 3 && p.nnz() == 2, "Packed: shape");
  check(p.dtype() == DType::f32 && p.nbytes() > 0 && !p.layouts().empty(), "Packed: what it holds");
  check(p.width() == 4 && !p.why().empty(), "Packed: why");
  const std::array<float, 2> others = {7, 8};
  p.update(make_view(others.data(), DType::f32, {2}));
  std::array<std::int32_t, 3> pointers = {};
  std::array<std::int32_t, 2> columns = {};
  std::array<float, 2> entries = {};
  p.unpack(make_view(pointers.data(), DType::i32, {3}), make_view(columns.data(), DType::i32, {2}),
           make_view(entries.data(), DType::f32, {2}));
  check(pointers == indptr && columns == indices && entries == others, "Packed::unpack");
}

// [0 … 0 15 0 …], the second of two groups.
void groups_are_quantised_and_back() {
  std::array<float, 32> dense = {}, back = {}, out = {};
  dense[17] = 15;
  const auto w = make_view(dense.data(), DType::f32, {1, 32});
  std::array<float, 2> norms = {};
  gossamer::quant_norms(w, 16, make_view(norms.data(), DType::f32, {1, 2}));
  check(norms == std::array<float, 2>{0, 15}, "quant_norms");
  std::array<std::int32_t, 2> indptr = {};
  std::array<std::uint16_t, 1> indices = {}, scales = {};
  std::array<std::uint8_t, 8> codes = {};
  std::array<std::uint8_t, 1> zeros = {};
  const auto rows = make_view(indptr.data(), DType::i32, {2});
  check(gossamer::quant_count(w, std::nullopt, 16, rows) == 1, "quant_count");
  const auto i = make_view(indices.data(), DType::u16, {1});
  const auto c = make_view(codes.data(), DType::u8, {1, 8});
  const auto s = make_view(scales.data(), DType::f16, {1});
  const auto z = make_view(zeros.data(), DType::u8, {1});
  gossamer::quant_fill(w, std::nullopt, 4, rows, i, c, s, z);
  const gossamer::GroupQuant a(
      rows, i, c, s, z, {.rows = 1, .cols = 32, .group = 16, .bits = 4, .dtype = DType::f32});
  check(a.groups() == 1 && a.nnz() == 16 && a.nbytes() == 21, "GroupQuant: what it holds");
  gossamer::quant_to_dense(a, make_view(back.data(), DType::f32, {1, 32}));
  check(back == dense, "quant_to_dense");
  gossamer::spmm(a, make_view(dense.data(), DType::f32, {32}),
                 make_view(out.data(), DType::f32, {1}));
  check(out[0] == 225, "spmm(GroupQuant)");
}

void the_machine_is_described() {
  bool found = false;
  for (const std::string& level : gossamer::available_isas()) found |= level == gossamer::isa();
  check(found, "isa() is one of available_isas()");
  const int before = gossamer::num_threads();
  gossamer::set_num_threads(1);
  check(gossamer::num_threads() == 1, "set_num_threads");
  gossamer::set_num_threads(before);
  check(gossamer::read_bandwidth(1 << 20, 0.001) > 0, "read_bandwidth");
  check(gossamer::fma_peak(0.001) > 0, "fma_peak");
}

}  // namespace

int main() {
  csr_converts_both_ways();
  indices_are_narrowed_where_they_fit();
  bsr_converts_both_ways();
  graphs_are_measured();
  packed_matrices_say_what_they_are();
  groups_are_quantised_and_back();
  the_machine_is_described();
}
