#include "formats/csr/args.h"
#include "simd/simd.h"

namespace gossamer::detail {
namespace {

template <class I>
void histogram(const CsrHistogramArgs& a) {
  const auto* indices = static_cast<const I*>(a.indices);
  auto* counts = static_cast<I*>(a.counts);
  for (std::int64_t p = a.begin; p < a.end; ++p) ++counts[indices[p]];
}

/// The first p in [begin, end) with indices[p] ≥ col; end if there is none.
template <class I>
I lower_bound(const I* indices, I begin, I end, std::int64_t col) {
  while (begin < end) {
    const I middle = begin + (end - begin) / 2;
    if (indices[middle] < col) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

/// Writes entries straight to the outputs: each behind the ones that its column has so far.
template <class I, class U, bool Values, bool Permutation>
struct Direct {
  I* next;
  I* out_indices;
  U* out_values;
  I* out_permutation;

  explicit Direct(const CsrTransposeArgs& a)
      : next(static_cast<I*>(a.next) - a.col0),
        out_indices(static_cast<I*>(a.out_indices)),
        out_values(static_cast<U*>(a.out_values)),
        out_permutation(static_cast<I*>(a.out_permutation)) {}

  GOSSAMER_INLINE void begin_tile(std::int64_t, std::int64_t, I, I) {}
  GOSSAMER_INLINE void put(I j, I row, U value, I p) const {
    const I q = next[j]++;
    out_indices[q] = row;
    if constexpr (Values) out_values[q] = value;
    if constexpr (Permutation) out_permutation[q] = p;
  }
  GOSSAMER_INLINE void end_tile(std::int64_t, std::int64_t) const {}
};

/// Collects the entries of a tile in runs, one for each column, of 8 bytes an entry: its row within
/// the tile, and its value or position. At the end of the tile the runs are written to the outputs,
/// many entries at a time.
template <class I, class U, bool Values, bool Permutation>
struct Collected {
  static constexpr bool kPacked = Values && !Permutation && sizeof(U) <= 4;
  static constexpr bool kApart = Values && !kPacked;

  const CsrTransposeArgs& args;
  std::uint64_t* runs;
  U* run_values;
  std::int32_t* ends;  // where each column's run ends; shifted so that the column is the subscript
  I row0 = 0, first = 0;

  explicit Collected(const CsrTransposeArgs& a)
      : args(a), runs(a.runs), run_values(static_cast<U*>(a.run_values)), ends(a.run_ends) {}

  GOSSAMER_INLINE void begin_tile(std::int64_t col0, std::int64_t col1, I row, I p) {
    row0 = row;
    first = p;
    ends = args.run_ends - col0;
    for (std::int64_t j = col0; j < col1; ++j) {
      ends[j] = static_cast<std::int32_t>((j - col0) * args.run_stride);
    }
  }

  GOSSAMER_INLINE void put(I j, I row, U value, I p) const {
    const std::int32_t at = ends[j];
    std::uint64_t entry = static_cast<std::uint64_t>(row - row0) << 32;
    if constexpr (kPacked) entry |= value;
    if constexpr (Permutation) entry |= static_cast<std::uint32_t>(p - first);
    runs[at] = entry;
    if constexpr (kApart) run_values[at] = value;
    ends[j] = at + 1;
  }

  /// out[k] = of(run[k]) for the n entries of a run. Writes whole groups where there is room; what
  /// is too much is overwritten by the column's next run.
  template <class T, class Run, class Of>
  GOSSAMER_INLINE static void write(T* __restrict out, const Run* __restrict run, std::int64_t n,
                                    std::int64_t room, Of of) {
    constexpr std::int64_t W = kTransposeGroup;
    std::int64_t k = 0;
    for (; k + (n + W <= room ? 1 : W) <= n; k += W) {
      for (std::int64_t l = 0; l < W; ++l) out[k + l] = of(run[k + l]);
    }
    for (; k < n; ++k) out[k] = of(run[k]);
  }

  GOSSAMER_INLINE void end_tile(std::int64_t col0, std::int64_t col1) const {
    auto* next = static_cast<I*>(args.next) - args.col0;
    const auto* limits = static_cast<const I*>(args.ends) - args.col0;
    for (std::int64_t j = col0; j < col1; ++j) {
      const std::int64_t start = (j - col0) * args.run_stride;
      const std::uint64_t* run = runs + start;
      const std::int64_t n = ends[j] - start;
      const std::int64_t q = next[j];
      const std::int64_t room = limits[j] - q;
      next[j] = static_cast<I>(q + n);
      write(static_cast<I*>(args.out_indices) + q, run, n, room, [&](std::uint64_t entry) {
        return static_cast<I>(row0 + static_cast<I>(entry >> 32));
      });
      if constexpr (kPacked) {
        write(static_cast<U*>(args.out_values) + q, run, n, room,
              [](std::uint64_t entry) { return static_cast<U>(entry); });
      }
      if constexpr (kApart) {
        write(static_cast<U*>(args.out_values) + q, run_values + start, n, room,
              [](U value) { return value; });
      }
      if constexpr (Permutation) {
        write(static_cast<I*>(args.out_permutation) + q, run, n, room, [&](std::uint64_t entry) {
          return static_cast<I>(static_cast<std::uint64_t>(first) +
                                static_cast<std::uint32_t>(entry));
        });
      }
    }
  }
};

/// Entries of a row that are prefetched, in rows and cache lines: the rows' parts are short and far
/// apart, which hardware prefetchers do not predict.
constexpr int kAhead = 6, kAheadLines = 2;

// Tile after tile, along the columns first; within a tile row after row, so that a column's entries
// are met in the order of rows. One thread has all entries of its columns, so their places do not
// depend on other threads.
template <class I, class U, class Output>
__attribute__((noinline)) void transpose(const CsrTransposeArgs& a) {
  Output output(a);
  const auto* indptr = static_cast<const I*>(a.indptr);
  const auto* indices = static_cast<const I*>(a.indices);
  const auto* values = static_cast<const U*>(a.values);
  auto* cursor = static_cast<I*>(a.cursors);
  for (std::int64_t row0 = 0; row0 < a.rows; row0 += a.tile_rows) {
    const std::int64_t row1 = min_i64(a.rows, row0 + a.tile_rows);
    for (std::int64_t i = row0; i < row1; ++i) {
      cursor[i - row0] =
          a.col0 == 0 ? indptr[i] : lower_bound(indices, indptr[i], indptr[i + 1], a.col0);
    }
    for (std::int64_t col0 = a.col0; col0 < a.col1; col0 += a.tile_cols) {
      const std::int64_t col1 = min_i64(a.col1, col0 + a.tile_cols);
      output.begin_tile(col0, col1, static_cast<I>(row0), indptr[row0]);
      for (std::int64_t i = row0; i < row1; ++i) {
        I p = cursor[i - row0];
        const I end = indptr[i + 1];
        if (i + kAhead < row1) {
          const I ahead = cursor[i + kAhead - row0];
          for (int line = 0; line < kAheadLines; ++line) {
            __builtin_prefetch(indices + ahead + line * (64 / sizeof(I)));
            __builtin_prefetch(values + ahead + line * (64 / sizeof(U)));
          }
        }
        for (; p < end && indices[p] < col1; ++p) {
          output.put(indices[p], static_cast<I>(i), values[p], p);
        }
        cursor[i - row0] = p;
      }
      output.end_tile(col0, col1);
    }
  }
}

template <class I, class U, bool Values, bool Permutation>
void choose_way(const CsrTransposeArgs& a) {
  a.runs != nullptr ? transpose<I, U, Collected<I, U, Values, Permutation>>(a)
                    : transpose<I, U, Direct<I, U, Values, Permutation>>(a);
}

template <class I, class U>
void choose_outputs(const CsrTransposeArgs& a) {
  if (a.out_values != nullptr) {
    a.out_permutation != nullptr ? choose_way<I, U, true, true>(a)
                                 : choose_way<I, U, true, false>(a);
  } else {
    a.out_permutation != nullptr ? choose_way<I, U, false, true>(a)
                                 : choose_way<I, U, false, false>(a);
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

namespace GOSSAMER_LEVEL {

void csr_histogram(const CsrHistogramArgs& a);
void csr_histogram(const CsrHistogramArgs& a) {
  a.wide ? histogram<std::int64_t>(a) : histogram<std::int32_t>(a);
}

void csr_transpose(const CsrTransposeArgs& a);
void csr_transpose(const CsrTransposeArgs& a) {
  a.wide ? choose_type<std::int64_t>(a) : choose_type<std::int32_t>(a);
}

}  // namespace GOSSAMER_LEVEL
}  // namespace gossamer::detail
