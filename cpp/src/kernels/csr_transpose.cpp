#include "kernels/simd.h"
#include "kernels/table.h"

namespace gossamer::kernels {
namespace {

template <class I>
void histogram(const CsrHistogramArgs& a) {
  const auto* indices = static_cast<const I*>(a.indices);
  auto* counts = static_cast<I*>(a.counts);
  for (std::int64_t p = a.begin; p < a.end; ++p) ++counts[indices[p]];
}

/// First p in [begin, end) with indices[p] ≥ col, else end.
template <class I>
std::int64_t lower_bound(const I* indices, std::int64_t begin, std::int64_t end, std::int64_t col) {
  while (begin < end) {
    const std::int64_t middle = begin + (end - begin) / 2;
    if (indices[middle] < col) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// A block of columns, row after row: the block's columns are as many output streams, each of which
// grows in row order, so that no other thread has a say in where an entry goes.
template <class I, class U, bool Values, bool Permutation>
void transpose(const CsrTransposeArgs& a) {
  const auto* indptr = static_cast<const I*>(a.indptr);
  const auto* indices = static_cast<const I*>(a.indices);
  const auto* values = static_cast<const U*>(a.values);
  auto* next = static_cast<I*>(a.next);
  auto* out_indices = static_cast<I*>(a.out_indices);
  auto* out_values = static_cast<U*>(a.out_values);
  auto* out_permutation = static_cast<I*>(a.out_permutation);
  for (std::int64_t i = 0; i < a.rows; ++i) {
    std::int64_t p = indptr[i];
    std::int64_t end = indptr[i + 1];
    if (a.col0 > 0) p = lower_bound(indices, p, end, a.col0);
    if (a.col1 < a.cols) end = lower_bound(indices, p, end, a.col1);
    for (; p < end; ++p) {
      const I q = next[indices[p] - a.col0]++;
      out_indices[q] = static_cast<I>(i);
      if constexpr (Values) out_values[q] = values[p];
      if constexpr (Permutation) out_permutation[q] = static_cast<I>(p);
    }
  }
}

template <class I, class U>
void choose_outputs(const CsrTransposeArgs& a) {
  if (a.out_values != nullptr) {
    a.out_permutation != nullptr ? transpose<I, U, true, true>(a)
                                 : transpose<I, U, true, false>(a);
  } else {
    a.out_permutation != nullptr ? transpose<I, U, false, true>(a)
                                 : transpose<I, U, false, false>(a);
  }
}

template <class I>
void choose_type(const CsrTransposeArgs& a) {
  switch (a.type) {
    case DType::f64:
      return choose_outputs<I, std::uint64_t>(a);
    case DType::f32:
      return choose_outputs<I, std::uint32_t>(a);
    default:
      return choose_outputs<I, std::uint16_t>(a);
  }
}

}  // namespace

namespace GOSSAMER_ISA_NAMESPACE {

void csr_histogram(const CsrHistogramArgs& a);
void csr_histogram(const CsrHistogramArgs& a) {
  a.wide ? histogram<std::int64_t>(a) : histogram<std::int32_t>(a);
}

void csr_transpose(const CsrTransposeArgs& a);
void csr_transpose(const CsrTransposeArgs& a) {
  a.wide ? choose_type<std::int64_t>(a) : choose_type<std::int32_t>(a);
}

}  // namespace GOSSAMER_ISA_NAMESPACE
}  // namespace gossamer::kernels
