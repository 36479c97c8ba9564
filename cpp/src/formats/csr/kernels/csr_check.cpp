#include "formats/csr/args.h"
#include "simd/simd.h"

namespace gossamer::detail {
namespace {

/// How many entries in [begin+1, end) are not above their predecessor.
template <class I>
std::int64_t count_descents(const I* indices, std::int64_t begin, std::int64_t end) {
  constexpr int W = kLanes<I>;
  std::int64_t p = begin + 1;
  Vec<I, W> sum0 = {}, sum1 = {};
  for (; p + 2 * W <= end; p += 2 * W) {
    sum0 -= load<W>(indices + p) <= load<W>(indices + p - 1);
    sum1 -= load<W>(indices + p + W) <= load<W>(indices + p + W - 1);
  }
  std::int64_t descents = 0;
  for (int i = 0; i < W; ++i) descents += sum0[i] + sum1[i];
  for (; p < end; ++p) descents += indices[p] <= indices[p - 1];
  return descents;
}

// Checks all entries as one stream: the rows are sorted if there are no more descents than there
// are where a row begins. A sorted row is in range if its first and last entries are.
template <class I>
void check(const CsrCheckArgs& a) {
  const auto* indptr = static_cast<const I*>(a.indptr);
  const auto* indices = static_cast<const I*>(a.indices);
  const std::int64_t begin = indptr[a.row0];
  const std::int64_t end = indptr[a.row1];
  std::int64_t allowed = 0;
  bool in_range = true;
  for (std::int64_t i = a.row0; i < a.row1; ++i) {
    const std::int64_t first = indptr[i];
    const std::int64_t last = indptr[i + 1];
    if (first == last) continue;
    in_range &= indices[first] >= 0;
    in_range &= indices[last - 1] < a.cols;
    if (first > begin) allowed += indices[first] <= indices[first - 1];
  }
  *a.valid = in_range && count_descents(indices, begin, end) == allowed;
}

template <class To, class From>
bool convert(const From* from, To* to, std::int64_t size) {
  constexpr int W = kLanes<std::int64_t>;
  Vec<From, W> cut = {};
  std::int64_t i = 0;
  for (; i + W <= size; i += W) {
    const auto v = load<W>(from + i);
    const auto w = __builtin_convertvector(v, Vec<To, W>);
    cut |= v ^ __builtin_convertvector(w, Vec<From, W>);
    store<W>(to + i, w);
  }
  From any = 0;
  for (int lane = 0; lane < W; ++lane) any |= cut[lane];
  for (; i < size; ++i) {
    to[i] = static_cast<To>(from[i]);
    any |= from[i] ^ static_cast<From>(to[i]);
  }
  return any == 0;
}

}  // namespace

namespace GOSSAMER_LEVEL {

void csr_check(const CsrCheckArgs& a);
void csr_check(const CsrCheckArgs& a) {
  if (a.wide) {
    check<std::int64_t>(a);
  } else {
    check<std::int32_t>(a);
  }
}

void convert_indices(const ConvertIndicesArgs& a);
void convert_indices(const ConvertIndicesArgs& a) {
  if (a.widen) {
    *a.fits =
        convert(static_cast<const std::int32_t*>(a.from), static_cast<std::int64_t*>(a.to), a.size);
  } else {
    *a.fits =
        convert(static_cast<const std::int64_t*>(a.from), static_cast<std::int32_t*>(a.to), a.size);
  }
}

}  // namespace GOSSAMER_LEVEL
}  // namespace gossamer::detail
