#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/bits.h"
#include "base/buffer.h"
#include "base/cut.h"
#include "base/floats.h"
#include "base/interrupt.h"
#include "gossamer/detail/score.h"
#include "gossamer/regrow.h"
#include "prune/select/operands.h"
#include "regrow/regrow_common.h"
#include "regrow/regrow_random.h"

namespace gossamer::regrow {
using namespace detail;
using prune::Score;
using prune::SelectOptions;
namespace {

constexpr const char* kRowsOp = "csr_drop_grow_";
constexpr std::int64_t kMaxInt64 = std::numeric_limits<std::int64_t>::max();

/// Element i of an array of int32 or int64, which may be strided.
std::int64_t index_at(const TensorView& array, std::int64_t i) {
  i *= array.strides[0];
  return array.dtype == DType::i64 ? static_cast<const std::int64_t*>(array.data)[i]
                                   : static_cast<const std::int32_t*>(array.data)[i];
}

/// The structure as it is before the change, and what of it stays.
template <class I>
struct Before {
  const I* indptr;
  const I* indices;
  std::int64_t rows, cols, nnz;
  std::uint8_t* keep;
  bool allow;
  const RowStructure* forbid;  // or null
};

/// The columns of one row where nothing may grow, increasing, then `cols` for ever.
template <class I>
class Taken {
 public:
  Taken(const Before<I>& b, std::int64_t row) : b_(b), p_(b.indptr[row]), end_(b.indptr[row + 1]) {
    if (b.forbid != nullptr) {
      f_ = std::max<std::int64_t>(index_at(b.forbid->indptr(), row), 0);
      f_end_ = std::min(index_at(b.forbid->indptr(), row + 1), b.forbid->nnz());
    }
  }

  std::int64_t next() {
    if (b_.allow) {
      while (p_ < end_ && b_.keep[p_] == 0) ++p_;
    }
    const std::int64_t own = p_ < end_ ? std::int64_t{b_.indices[p_]} : b_.cols;
    const std::int64_t other = f_ < f_end_ ? index_at(b_.forbid->indices(), f_) : b_.cols;
    if (own <= other && p_ < end_) ++p_;
    if (other <= own && f_ < f_end_) ++f_;
    // Not negative whatever another thread writes into the arrays.
    return std::max<std::int64_t>(std::min(own, other), 0);
  }

 private:
  const Before<I>& b_;
  std::int64_t p_, end_, f_ = 0, f_end_ = 0;
};

/// Places that grow, by row and column: row i has columns[begin[i] .. begin[i+1]).
template <class I>
struct Grown {
  Buffer<std::int64_t> begin;
  Buffer<I> columns;
};

/// Calls f(row0, row1) for ranges of rows with about equal work.
template <class I, class F>
void for_rows(const Before<I>& b, F&& f) {
  const RowRanges rows = cut_rows({b.indptr, sizeof(I) == 8}, b.rows,
                                  {.pieces = task_count(b.rows + b.indptr[b.rows]), .row_cost = 1});
  parallel_for(rows.count(), [&](std::int64_t task) { f(rows.begin(task), rows.end(task)); });
}

/// Makes exactly k of n bytes 1, among those whose `within` is 1. They are so many already unless
/// another thread wrote the scores that they were selected by.
void mark_exactly(std::uint8_t* mask, const std::uint8_t* within, std::int64_t n, std::int64_t k) {
  std::int64_t marked = count_nonzero_of(mask, n);
  for (std::int64_t i = 0; i < n && marked != k; ++i) {
    if (marked > k && mask[i] != 0) {
      mask[i] = 0;
      --marked;
    } else if (marked < k && mask[i] == 0 && (within == nullptr || within[i] != 0)) {
      mask[i] = 1;
      ++marked;
    }
  }
}

/// Turns counts in sums[1..n] into sums of what comes before, and returns their total.
template <class T>
std::int64_t sum_up(T* sums, std::int64_t n) {
  sums[0] = 0;
  for (std::int64_t i = 1; i <= n; ++i) sums[i] = static_cast<T>(sums[i] + sums[i - 1]);
  return sums[n];
}

/// Places before each row that may grow [rows+1].
template <class I>
Buffer<std::int64_t> free_before(const Before<I>& b) {
  Buffer<std::int64_t> sums(b.rows + 1);
  for_rows(b, [&](std::int64_t row0, std::int64_t row1) {
    for (std::int64_t row = row0; row < row1; ++row) {
      std::int64_t taken = 0;
      if (b.forbid == nullptr && !b.allow) {
        taken = b.indptr[row + 1] - b.indptr[row];
      } else {
        for (Taken<I> places(b, row); places.next() < b.cols;) ++taken;
      }
      sums[row + 1] = b.cols - taken;
    }
  });
  static_cast<void>(sum_up(sums.data(), b.rows));
  return sums;
}

constexpr const char* kPlaces = "places that may grow";

template <class I>
Grown<I> grow_random(const Checker& check, const Before<I>& b, std::int64_t n,
                     const RandomGrowth& key) {
  if (b.cols > 0 && b.rows > kMaxInt64 / b.cols) {
    check.value_error("shape is (" + std::to_string(b.rows) + ", " + std::to_string(b.cols) +
                      "), expected less than 2^63 places to draw from");
  }
  Buffer<std::int64_t> free = free_before(b);
  check_number(check, "n_grow", n, free[b.rows], kPlaces);
  const Buffer<std::int64_t> ranks = draw_ranks(free[b.rows], n, key);
  Grown<I> grown{Buffer<std::int64_t>(b.rows + 1), Buffer<I>(n)};
  for_rows(b, [&](std::int64_t row0, std::int64_t row1) {
    const std::int64_t* const all = ranks.data();
    std::int64_t t = std::lower_bound(all, all + n, free[row0]) - all;
    for (std::int64_t row = row0; row < row1; ++row) {
      grown.begin[row] = t;
      if (t == n || all[t] >= free[row + 1]) continue;
      // The q-th free column is q plus the number of taken ones up to it.
      Taken<I> places(b, row);
      std::int64_t taken = 0, column = places.next();
      for (; t < n && all[t] < free[row + 1]; ++t) {
        const std::int64_t q = all[t] - free[row];
        while (column <= q + taken && column < b.cols) {
          ++taken;
          column = places.next();
        }
        grown.columns[t] = static_cast<I>(q + taken);
      }
    }
  });
  grown.begin[b.rows] = n;
  return grown;
}

template <class I>
Grown<I> grow_best(const Checker& check, const Before<I>& b, std::int64_t n, const Score& score,
                   const SelectOptions& select) {
  const std::int64_t cells = b.rows * b.cols;
  Buffer<std::uint8_t> free(cells), chosen(cells);
  Buffer<std::int64_t> room(b.rows + 1);
  for_rows(b, [&](std::int64_t row0, std::int64_t row1) {
    for (std::int64_t row = row0; row < row1; ++row) {
      std::uint8_t* line = free.data() + row * b.cols;
      std::fill(line, line + b.cols, std::uint8_t{1});
      std::int64_t taken = 0;
      Taken<I> places(b, row);
      for (std::int64_t c = places.next(); c < b.cols; c = places.next(), ++taken) line[c] = 0;
      room[row + 1] = b.cols - taken;
    }
  });
  check_number(check, "n_grow", n, sum_up(room.data(), b.rows), kPlaces);
  TensorView free_view = make_view(free.data(), DType::boolean, {b.rows, b.cols});
  TensorView chosen_view = make_view(chosen.data(), DType::boolean, {b.rows, b.cols});
  topk_masks(check, std::span(&score, 1), n, select, std::span<const TensorView>(&free_view, 1),
             std::span<const TensorView>(&chosen_view, 1));
  mark_exactly(chosen.data(), free.data(), cells, n);
  Grown<I> grown{Buffer<std::int64_t>(b.rows + 1), Buffer<I>(n)};
  for_rows(b, [&](std::int64_t row0, std::int64_t row1) {
    for (std::int64_t row = row0; row < row1; ++row) {
      grown.begin[row + 1] = count_nonzero(chosen.data() + row * b.cols, b.cols);
    }
  });
  static_cast<void>(sum_up(grown.begin.data(), b.rows));
  for_rows(b, [&](std::int64_t row0, std::int64_t row1) {
    for (std::int64_t row = row0; row < row1; ++row) {
      const std::uint8_t* line = chosen.data() + row * b.cols;
      I* out = grown.columns.data() + grown.begin[row];
      std::int64_t c = 0;
      for (; c + 8 <= b.cols; c += 8) {
        std::uint64_t set = 0;  // eight bytes of 0 or 1
        for (std::memcpy(&set, line + c, 8); set != 0; set &= set - 1) {
          *out++ = static_cast<I>(c + std::countr_zero(set) / 8);
        }
      }
      for (; c < b.cols; ++c) {
        if (line[c] != 0) *out++ = static_cast<I>(c);
      }
    }
  });
  return grown;
}

struct Place {
  std::int64_t row, column, given;

  friend bool operator<(const Place& a, const Place& b) {
    if (a.row != b.row) return a.row < b.row;
    return a.column != b.column ? a.column < b.column : a.given < b.given;
  }
};

/// The given places that may grow, in the order of the matrix, each once.
template <class I>
std::vector<Place> open_places(const Checker& check, const Before<I>& b, const Coordinates& given) {
  const std::int64_t n = given.rows.shape[0];
  std::vector<Place> places;
  places.reserve(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    const Place place{index_at(given.rows, i), index_at(given.cols, i), i};
    check_place(check, i, place.row, place.column, b.rows, b.cols);
    places.push_back(place);
  }
  std::sort(places.begin(), places.end());
  std::size_t size = 0;
  for (std::size_t i = 0; i < places.size();) {
    const std::int64_t row = places[i].row;
    Taken<I> taken(b, row);
    std::int64_t column = taken.next(), last = -1;
    for (; i < places.size() && places[i].row == row; ++i) {
      const std::int64_t wanted = places[i].column;
      while (column < wanted) column = taken.next();
      if (column == wanted || wanted == last) continue;
      last = wanted;
      places[size++] = places[i];
    }
  }
  places.resize(size);
  return places;
}

template <class I>
Grown<I> grow_listed(const Checker& check, const Before<I>& b, std::int64_t n,
                     const Coordinates& given, const SelectOptions& select) {
  check_coordinates(check, given);
  std::vector<Place> places = open_places(check, b, given);
  const auto open = static_cast<std::int64_t>(places.size());
  check_number(check, "n_grow", n, open, "given places that may grow");
  if (given.score) {
    // The open places' scores, which are to be ordered by place.
    const DType type = prune::dtype_of(*given.score);
    const std::int64_t bytes = size_of(type);
    const std::int64_t count = given.rows.shape[0];
    Buffer<std::byte> all(count * bytes), some(open * bytes);
    prune::evaluate(*given.score, make_view(all.data(), type, {count}));
    for (std::int64_t i = 0; i < open; ++i) {
      std::memcpy(some.data() + i * bytes,
                  all.data() + places[static_cast<std::size_t>(i)].given * bytes,
                  static_cast<std::size_t>(bytes));
    }
    const Score score{.w = make_view(some.data(), type, {open}), .kind = prune::ScoreKind::value};
    Buffer<std::uint8_t> chosen(open);
    const TensorView chosen_view = make_view(chosen.data(), DType::boolean, {open});
    topk_masks(check, std::span(&score, 1), n, select, {}, std::span(&chosen_view, 1));
    std::size_t size = 0;
    for (std::int64_t i = 0; i < open; ++i) {
      if (chosen[i] != 0) places[size++] = places[static_cast<std::size_t>(i)];
    }
    places.resize(size);
  } else {
    const auto earlier = [](const Place& x, const Place& y) { return x.given < y.given; };
    std::sort(places.begin(), places.end(), earlier);
    places.resize(static_cast<std::size_t>(n));
    std::sort(places.begin(), places.end());
  }
  Grown<I> grown{Buffer<std::int64_t>(b.rows + 1), Buffer<I>(n)};
  std::fill(grown.begin.data(), grown.begin.data() + b.rows + 1, std::int64_t{0});
  for (std::int64_t i = 0; i < n; ++i) {
    const Place& place = places[static_cast<std::size_t>(i)];
    ++grown.begin[place.row + 1];
    grown.columns[i] = static_cast<I>(place.column);
  }
  static_cast<void>(sum_up(grown.begin.data(), b.rows));
  return grown;
}

/// Makes dropped entries that grow again kept ones, and takes them from what grows.
template <class I>
void keep_regrown(const Before<I>& b, Grown<I>& grown) {
  Buffer<std::int64_t> begin(b.rows + 1);
  for_rows(b, [&](std::int64_t row0, std::int64_t row1) {
    for (std::int64_t row = row0; row < row1; ++row) {
      std::int64_t p = b.indptr[row], out = grown.begin[row];
      const std::int64_t end = b.indptr[row + 1];
      for (std::int64_t t = grown.begin[row]; t < grown.begin[row + 1]; ++t) {
        const I column = grown.columns[t];
        while (p < end && b.indices[p] < column) ++p;
        if (p < end && b.indices[p] == column) {
          b.keep[p] = 1;
        } else {
          grown.columns[out++] = column;
        }
      }
      begin[row + 1] = out - grown.begin[row];
    }
  });
  std::int64_t out = 0;
  for (std::int64_t row = 0; row < b.rows; ++row) {
    const std::int64_t first = grown.begin[row], count = begin[row + 1];
    std::copy(grown.columns.data() + first, grown.columns.data() + first + count,
              grown.columns.data() + out);
    begin[row] = out;
    out += count;
  }
  begin[b.rows] = out;
  grown.begin = std::move(begin);
}

/// data[q] = data[src[q]], or fill(q) where src[q] is -1, for q < n. src increases, so what moves
/// down, taken in order, and then what moves up, in the reverse order, never meets an entry that
/// has yet to move.
template <class I, class Move, class Fill>
void move_entries(const I* src, std::int64_t n, Move&& move, Fill&& fill) {
  for (std::int64_t q = 0; q < n; ++q) {
    if (src[q] > q) move(q, std::int64_t{src[q]});
  }
  for (std::int64_t q = n - 1; q >= 0; --q) {
    if (src[q] < 0) {
      fill(q);
    } else if (src[q] < q) {
      move(q, std::int64_t{src[q]});
    }
  }
}

template <class T, class I>
void move_array(const Followed& followed, std::int64_t width, const I* src, std::int64_t n) {
  T* data = static_cast<T*>(followed.array.data);
  const T value = static_cast<T>(encode(followed.value, followed.array.dtype));
  if (width == 1) {
    move_entries(
        src, n, [&](std::int64_t to, std::int64_t from) { data[to] = data[from]; },
        [&](std::int64_t to) { data[to] = value; });
  } else {
    move_entries(
        src, n,
        [&](std::int64_t to, std::int64_t from) {
          std::copy(data + from * width, data + (from + 1) * width, data + to * width);
        },
        [&](std::int64_t to) { std::fill(data + to * width, data + (to + 1) * width, value); });
  }
}

template <class I>
void move_followed(const Followed& followed, const I* src, std::int64_t n) {
  const std::int64_t extent = followed.array.shape[0];
  const std::int64_t width = extent == 0 ? 0 : followed.array.numel() / extent;
  switch (size_of(followed.array.dtype)) {
    case 2:
      move_array<std::uint16_t>(followed, width, src, n);
      break;
    case 4:
      move_array<std::uint32_t>(followed, width, src, n);
      break;
    default:
      move_array<std::uint64_t>(followed, width, src, n);
      break;
  }
}

/// keep [nnz]: 1 for what stays.
Buffer<std::uint8_t> choose_kept(const Checker& check, const Drop& drop, std::int64_t nnz,
                                 std::int64_t n_drop, Device device, const SelectOptions& select) {
  Buffer<std::uint8_t> keep(nnz);
  const TensorView view = make_view(keep.data(), DType::boolean, {nnz});
  check_drop(check, drop, nnz, n_drop, device);
  if (const Score* score = std::get_if<Score>(&drop)) {
    topk_masks(check, std::span(score, 1), nnz - n_drop, select, {}, std::span(&view, 1));
    mark_exactly(keep.data(), nullptr, nnz, nnz - n_drop);
    return keep;
  }
  const auto* bytes = static_cast<const std::uint8_t*>(std::get<TensorView>(drop).data);
  for (std::int64_t p = 0; p < nnz; ++p) keep[p] = bytes[p] != 0;
  check_dropped(check, nnz - count_nonzero(keep.data(), nnz), n_drop);
  return keep;
}

/// Throws unless a private copy of the row pointers still describes nnz entries: another thread
/// could have written the array since it was checked.
template <class I>
void check_copy(const Checker& check, const Buffer<I>& indptr, std::int64_t nnz) {
  const std::int64_t rows = indptr.size() - 1;
  bool rises = indptr[0] == 0 && indptr[rows] == nnz;
  for (std::int64_t row = 0; row < rows; ++row) rises &= indptr[row] <= indptr[row + 1];
  if (!rises) check.value_error("indptr has changed since it was checked");
}

template <class I>
void change(const Checker& check, const RowStructure& structure, const Drop& drop,
            const RowsGrowth& grow, std::int64_t n_drop, std::int64_t n_grow,
            const Forbidden& forbid, std::span<const Followed> arrays, const TensorView& src_view,
            const RegrowOptions& options) {
  I* indices = static_cast<I*>(structure.indices().data);
  const std::int64_t rows = structure.rows(), nnz = structure.nnz();
  Buffer<I> indptr(rows + 1);
  std::copy_n(static_cast<const I*>(structure.indptr().data), rows + 1, indptr.data());
  check_copy(check, indptr, nnz);
  const SelectOptions select{
      .largest = true, .tie = options.tie, .nan = options.nan, .format = prune::MaskFormat::bytes};
  Buffer<std::uint8_t> keep =
      choose_kept(check, drop, nnz, n_drop, structure.indices().device, select);
  const Before<I> b{.indptr = indptr.data(),
                    .indices = indices,
                    .rows = rows,
                    .cols = structure.cols(),
                    .nnz = nnz,
                    .keep = keep.data(),
                    .allow = options.allow,
                    .forbid = forbid ? &*forbid : nullptr};
  Grown<I> grown;
  if (const Score* score = std::get_if<Score>(&grow)) {
    grown = grow_best(check, b, n_grow, *score, select);
  } else if (const Coordinates* given = std::get_if<Coordinates>(&grow)) {
    grown = grow_listed(check, b, n_grow, *given, select);
  } else {
    grown = grow_random(check, b, n_grow, std::get<RandomGrowth>(grow));
  }
  if (options.allow && n_drop > 0) keep_regrown(b, grown);

  Buffer<I> after(rows + 1);
  for_rows(b, [&](std::int64_t row0, std::int64_t row1) {
    for (std::int64_t row = row0; row < row1; ++row) {
      std::int64_t count = grown.begin[row + 1] - grown.begin[row];
      for (std::int64_t p = indptr[row]; p < indptr[row + 1]; ++p) count += keep[p];
      after[row + 1] = static_cast<I>(count);
    }
  });
  static_cast<void>(sum_up(after.data(), rows));

  I* src = static_cast<I*>(src_view.data);
  for_rows(b, [&](std::int64_t row0, std::int64_t row1) {
    I* out = src + after[row0];
    for (std::int64_t row = row0; row < row1; ++row) {
      std::int64_t t = grown.begin[row];
      const std::int64_t t_end = grown.begin[row + 1];
      for (std::int64_t p = indptr[row]; p < indptr[row + 1]; ++p) {
        if (keep[p] == 0) continue;
        for (; t < t_end && grown.columns[t] < indices[p]; ++t) *out++ = -1;
        *out++ = static_cast<I>(p);
      }
      for (; t < t_end; ++t) *out++ = -1;
    }
  });

  const std::int64_t n = nnz - n_drop + n_grow;
  const Uninterrupted whole;
  parallel_for(static_cast<std::int64_t>(arrays.size()) + 1, [&](std::int64_t task) {
    if (task > 0) {
      move_followed(arrays[static_cast<std::size_t>(task - 1)], src, n);
      return;
    }
    std::int64_t t = grown.begin[rows];
    move_entries(
        src, n, [&](std::int64_t to, std::int64_t from) { indices[to] = indices[from]; },
        [&](std::int64_t to) { indices[to] = grown.columns[--t]; });
  });
  std::copy_n(after.data(), rows + 1, static_cast<I*>(structure.indptr().data));
}

}  // namespace

void csr_drop_grow_(const RowStructure& structure, const Drop& drop, const RowsGrowth& grow,
                    std::int64_t n_drop, std::int64_t n_grow, const Forbidden& forbid,
                    std::span<const Followed> arrays, const TensorView& src,
                    const RegrowOptions& options) {
  const FloatEnvironment floats;
  const Checker check(kRowsOp);
  check_drop_grow_rows(check, structure, grow, entries_after(structure, n_drop, n_grow), forbid,
                       arrays, src);
  with_index_type(structure.indices().dtype, [&](auto type) {
    using I = decltype(type);
    change<I>(check, structure, drop, grow, n_drop, n_grow, forbid, arrays, src, options);
  });
}

void block_norms(const TensorView& blocks, const TensorView& norms) {
  const FloatEnvironment floats;
  const Checker check("block_norms");
  check_block_norms(check, blocks, norms);
  const Score score{.w = blocks, .kind = prune::ScoreKind::magnitude};
  const DType type = norms.dtype;
  const std::int64_t n = blocks.shape[0], size = n == 0 ? 0 : blocks.numel() / n;
  const auto sum = [&](auto real) {
    using T = decltype(real);
    T* out = static_cast<T*>(norms.data);
    constexpr std::int64_t kTask = 256;  // blocks
    parallel_for((n + kTask - 1) / kTask, [&](std::int64_t task) {
      const std::int64_t first = task * kTask, count = std::min(kTask, n - first);
      Buffer<T> magnitudes(count * size);
      Score part = score;
      part.w =
          make_view(static_cast<std::byte*>(blocks.data) + first * size * size_of(blocks.dtype),
                    blocks.dtype, {count, size});
      prune::evaluate(part, make_view(magnitudes.data(), type, {count, size}));
      for (std::int64_t b = 0; b < count; ++b) {
        T total = 0;
        for (std::int64_t i = 0; i < size; ++i) total += magnitudes[b * size + i];
        out[first + b] = total;
      }
    });
  };
  if (type == DType::f64) {
    sum(double{});
  } else {
    sum(float{});
  }
}

}  // namespace gossamer::regrow
