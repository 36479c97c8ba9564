#pragma once

// What the kernels of csr_attention.h take. "Real" is the type that sums are kept in: double for
// float64 operands, else float.

#include <cstdint>

#include "gossamer/detail/edge_score.h"
#include "gossamer/dtype.h"

namespace gossamer::detail {

/// out[p] = e^(x[p] - m_i)/Σ e^(x - m_i) over the entries of row i, m_i the largest of them, for
/// rows [row0, row1); zeros where all are -infinity.
struct CsrSoftmaxArgs {
  bool wide;  // int64 indptr
  const void* indptr;
  std::int64_t row0, row1;
  DType type;  // of x and out
  const void* x;
  void* out;
};

/// out[p] = y[p]·(g[p] - Σ y·g) over the entries of row i, for rows [row0, row1).
struct CsrSoftmaxBackwardArgs {
  bool wide;
  const void* indptr;
  std::int64_t row0, row1;
  DType type;  // of y, g and out
  const void* y;
  const void* g;
  void* out;
};

/// Rows of a matrix for each head: element d of row r and head h is data[r*row + h*head + d].
struct HeadRows {
  const void* data;
  std::int64_t row, head;
};

/// For the pattern's rows [row0, row1), row r being that of query r - row_base, and each of the
/// heads h: o_i = Σ_p w_p·v_j over the entries p = (r, j) with w = softmax of their scores, and
/// lse_i the logarithm of the sum of the scores' powers of e. Keys and values have heads/group
/// heads.
struct CsrAttentionArgs {
  bool wide;
  const void* indptr;
  const void* indices;  // below 2^31
  std::int64_t row0, row1, row_base;
  DType type;
  HeadRows q, k, v;
  EdgeScore score;
  std::int64_t heads, group;
  std::int64_t depth, depth_v;
  void* o;
  std::int64_t o_row, o_head;
  void* lse;  // Real [heads][…], lse_head apart
  std::int64_t lse_head;
  bool prefetch;  // the rows of k and v that come next: all heads of one lie together
  void* scratch;  // Real [depth + depth_v]
};

/// One of two passes over lists of entries. By rows (of the pattern): x = q_i, y = do_i are the
/// list's own, other_x = k_j and other_y = v_j those of its entries; dx = dq_i, and delta_i =
/// ⟨do_i, o_i⟩ - dlse_i is computed and stored. By `columns` (rows of the transposed pattern) the
/// other way round: x = k_j, y = v_j, dx = dk_j, dy = dv_j, and delta is read. With w_p = e^(score
/// - lse) and g_p = w_p·(⟨do_i, v_j⟩ - delta_i): dq_i = scale·Σ g_p·k_j, dk_j = scale·Σ g_p·q_i,
/// dv_j = Σ w_p·do_i.
struct CsrAttentionBackwardArgs {
  bool columns;
  bool wide;
  const void* indptr;
  const void* indices;      // below 2^31
  const void* permutation;  // entry of the pattern for each of the list's; null: the same
  std::int64_t row0, row1, row_base;
  DType type;
  HeadRows x, y, other_x, other_y;
  HeadRows o;  // by rows only
  EdgeScore score;
  std::int64_t heads, group;
  std::int64_t depth, depth_v;
  const void* lse;   // Real, [heads][queries], lse_head apart
  const void* dlse;  // the same, or null
  void* delta;       // the same
  std::int64_t lse_head;
  void* dx;
  std::int64_t dx_row, dx_head;
  void* dy;
  std::int64_t dy_row, dy_head;
  void* g;  // Real, [heads][entries], g_head apart, or null; by rows only
  std::int64_t g_head;
  bool prefetch;
  void* scratch;  // Real [2·(depth + depth_v)]
};

}  // namespace gossamer::detail
