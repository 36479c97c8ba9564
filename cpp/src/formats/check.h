#pragma once

// Checks that the conversions of CSR and BSR share. They are part of gossamer_checks, which a
// backend links without the rest of the library.

#include <cstdint>
#include <initializer_list>
#include <optional>

#include "gossamer/detail/check.h"

namespace gossamer::detail {

/// The length that indptr must have, and the words for it in messages.
struct PointerCount {
  std::int64_t size;
  const char* text;
};

/// What counting the entries of a dense matrix `w` asks of its arguments.
void check_counted(const Checker& check, const TensorView& w, const std::optional<TensorView>& mask,
                   const TensorView& indptr, PointerCount pointers);

/// What filling the arrays of a sparse matrix from `w` asks; `values` has the given rank.
void check_filled(const Checker& check, const TensorView& w, const std::optional<TensorView>& mask,
                  const TensorView& indptr, PointerCount pointers, const TensorView& indices,
                  const Argument& values, int rank);

/// `out` is a contiguous, writable array on `device`, that of `like`, with `size` elements along
/// the first of `rank` axes, and shares no memory with `inputs`.
void check_output(const Checker& check, const Argument& out, Device device, const char* like,
                  std::int64_t size, const char* what, std::initializer_list<Argument> inputs,
                  int rank = 1);

/// `out` may hold the dense form of the matrix `a`, whose values are `values`.
template <class Format>
void check_dense_output(const Checker& check, const Format& a, const Argument& values,
                        const TensorView& out) {
  check.dtype({"out", out}, a.dtype(), "a");
  check.rank({"out", out}, {2});
  check.extent({"out", out}, 0, a.rows(), "a.shape[0]");
  check.extent({"out", out}, 1, a.cols(), "a.shape[1]");
  check.device({"out", out}, a.device(), "a");
  check.layout({"out", out});
  check.writable({"out", out}, {{"a.indptr", a.indptr()}, {"a.indices", a.indices()}, values});
}

}  // namespace gossamer::detail
