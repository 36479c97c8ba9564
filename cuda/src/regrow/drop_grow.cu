// Drop and growth of masks, and of the entries of sparse matrices.

#include <algorithm>
#include <cstring>
#include <variant>

#include "base/carver.h"
#include "base/kernels/scan.cuh"
#include "base/runtime.h"
#include "formats/csr/csr_marks.h"
#include "formats/csr/csr_view.h"
#include "gossamer/cuda.h"
#include "gossamer/detail/regrow_checks.h"
#include "prune/select.h"
#include "regrow/kernels/drop_grow.cuh"
#include "regrow/kernels/grow_listed.cuh"
#include "regrow/kernels/grow_random.cuh"
#include "regrow/kernels/grow_rows.cuh"

namespace gossamer::cuda {
namespace {

using detail::Checker;

constexpr const char* kOp = "drop_grow_";
constexpr const char* kOpOfRows = "csr_drop_grow_";

/// What was chosen, and what the selections need.
struct Room {
  Room(void* base, std::int64_t n) {
    Carver carver(base);
    kept = carver.take<std::uint8_t>(n);
    grown = carver.take<std::uint8_t>(n);
    free = carver.take<std::uint8_t>(n);
    totals = carver.take<Count>(2);
    fresh = carver.take<int>(ceil_div(n, kTile));
    selection = carver.take_bytes(0);
    bytes = carver.used();
  }

  std::uint8_t *kept, *grown, *free;
  Count* totals;
  int* fresh;
  void* selection;
  std::int64_t bytes;
};

/// A scalar's bits in a floating type.
std::uint64_t encode(double x, DType dtype) {
  std::uint64_t bits = 0;
  with_element_type(dtype, [&]<class T>(T) {
    T value;
    if constexpr (sizeof(T) == 2) {
      value = T(static_cast<float>(x));
    } else {
      value = static_cast<T>(x);
    }
    std::memcpy(&bits, &value, sizeof(T));
  });
  return bits;
}

std::int64_t read_total(const Count* total, Stream stream) {
  std::int64_t count = 0;
  copy_to_host(&count, total, sizeof(count), stream);
  return count;
}

/// Marks the k of a score's entries in `within` that score highest; there are as many.
void choose(const Checker& check, const char* op, const prune::Score& score, std::int64_t k,
            const std::uint8_t* within, std::uint8_t* mask, const regrow::RegrowOptions& options,
            void* workspace, Stream stream) {
  const DType type = detail::key_type(score);
  SelectPart part = part_of(score, type, within, mask);
  if (options.nan == prune::Nan::error) {
    refuse_nans(check, op, {&part, 1}, type, workspace, stream);
  }
  if (k == 0) return fill_zero(mask, part.count, stream);
  select({.parts = {&part, 1},
          .k = k,
          .type = type,
          .options = {.largest = true, .tie = options.tie, .nan = options.nan}},
         workspace, stream);
}

/// What a draw from n places needs.
struct DrawRoom {
  DrawRoom(void* base, std::int64_t n) {
    Carver carver(base);
    bits = carver.take<unsigned>(ceil_div(n, 32));
    tiles = carver.take<Count>(ceil_div(n, kTile));
    bytes = carver.used();
  }

  unsigned* bits;
  Count* tiles;
  std::int64_t bytes;
};

/// grown = k of the n places that are free, of which there are `candidates`.
void draw(const regrow::RandomGrowth& key, std::int64_t k, std::int64_t candidates, std::int64_t n,
          const std::uint8_t* free, std::uint8_t* grown, void* workspace, Stream stream) {
  if (k == 0) return fill_zero(grown, n, stream);
  const DrawRoom room(workspace, n);
  const GrowRandomArgs args{
      .count = n, .free = free, .grown = grown, .draws = k, .bits = room.bits, .tiles = room.tiles};
  const std::int64_t tiles = ceil_div(n, kTile);
  const dim3 grid(grid_x(tiles)), block(kMaskThreads);
  fill_zero(room.bits, ceil_div(candidates, 32) * 4, stream);
  launch(grow_draw, dim3(grid_x(ceil_div(k, kMaskThreads))), block, 0, stream, args,
         detail::Permutation(static_cast<std::uint64_t>(candidates), key.seed, key.step));
  launch(grow_count_tiles, grid, block, 0, stream, args);
  launch(grow_sum_tiles, dim3(1), dim3(kScanThreads), 0, stream, room.tiles,
         static_cast<int>(tiles));
  launch(grow_look_up, grid, block, 0, stream, args);
}

/// Bytes of workspace to choose from n places by a score, or where that is null at random.
std::int64_t choice_bytes(const prune::Score* score, std::int64_t n) {
  return score == nullptr ? DrawRoom(nullptr, n).bytes
                          : select_bytes(n, 1, detail::key_type(*score));
}

/// *total = how many of n bytes are not 0. Waits.
std::int64_t count_nonzero(const std::uint8_t* bytes, std::int64_t n, Count* total, Stream stream) {
  GrowArgs args{};
  args.count = n;
  args.mask = const_cast<std::uint8_t*>(bytes);  // is read
  args.total = total;
  fill_zero(total, sizeof(Count), stream);
  launch(grow_count, dim3(grid_x(ceil_div(n, kTile))), dim3(kMaskThreads), 0, stream, args);
  return read_total(total, stream);
}

}  // namespace

std::int64_t drop_grow_workspace(const TensorView& mask, const prune::Score& drop,
                                 const regrow::MaskRegrowth::Growth& grow) {
  const std::int64_t n = mask.numel();
  return Room(nullptr, n).bytes +
         std::max(choice_bytes(&drop, n), choice_bytes(std::get_if<prune::Score>(&grow), n));
}

std::int64_t drop_grow_choose(const TensorView& mask, const prune::Score& drop,
                              const regrow::MaskRegrowth::Growth& grow, std::int64_t n_drop,
                              std::int64_t n_grow, const std::optional<TensorView>& forbid,
                              const regrow::RegrowOptions& options, const TensorView& workspace,
                              Stream stream) {
  const Checker check(kOp, DeviceType::cuda);
  const auto* score = std::get_if<prune::Score>(&grow);
  detail::check_drop_grow(check, mask, drop, score, forbid);
  const std::int64_t n = mask.numel();
  if (n == 0) {
    detail::check_number(check, "n_drop", n_drop, 0, "active entries");
    detail::check_number(check, "n_grow", n_grow, 0, "places that may grow");
    return 0;
  }
  check.workspace(workspace, mask.device, drop_grow_workspace(mask, drop, grow));
  require_waiting(stream, kOp, "the number of places that are new");
  const DeviceGuard guard(mask.device);
  const Room room(workspace.data, n);
  GrowArgs args{.count = n,
                .mask = bytes_of(mask),
                .forbid = forbid ? bytes_of(*forbid) : nullptr,
                .kept = room.kept,
                .grown = room.grown,
                .free = room.free,
                .allow = options.allow,
                .total = room.totals,
                .fresh = room.fresh,
                .places = nullptr};
  const dim3 grid(grid_x(ceil_div(n, kTile))), block(kMaskThreads);
  const std::int64_t active = count_nonzero(args.mask, n, room.totals, stream);
  detail::check_number(check, "n_drop", n_drop, active, "active entries");
  choose(check, kOp, drop, active - n_drop, args.mask, room.kept, options, room.selection, stream);
  args.total = room.totals + 1;
  fill_zero(args.total, sizeof(Count), stream);
  launch(grow_free, grid, block, 0, stream, args);
  const std::int64_t places = read_total(args.total, stream);
  detail::check_number(check, "n_grow", n_grow, places, "places that may grow");
  if (score == nullptr) {
    draw(std::get<regrow::RandomGrowth>(grow), n_grow, places, n, room.free, room.grown,
         room.selection, stream);
  } else {
    choose(check, kOp, *score, n_grow, room.free, room.grown, options, room.selection, stream);
  }
  launch(grow_fresh, grid, block, 0, stream, args);
  const auto tiles = static_cast<int>(ceil_div(n, kTile));
  launch(inclusive_scan, dim3(1), dim3(kScanThreads), 0, stream, room.fresh, tiles);
  int fresh = 0;
  copy_to_host(&fresh, room.fresh + tiles - 1, sizeof(fresh), stream);
  return fresh;
}

void drop_grow_apply(const TensorView& mask, std::int64_t fresh,
                     std::span<const regrow::Followed> arrays, const TensorView& places,
                     const TensorView& workspace, Stream stream) {
  const Checker check(kOp, DeviceType::cuda);
  detail::check_regrown(check, mask, mask, arrays, places, fresh);
  const std::int64_t n = mask.numel();
  if (n == 0) return;
  check.workspace(workspace, mask.device, Room(nullptr, n).bytes);
  const DeviceGuard guard(mask.device);
  const Room room(workspace.data, n);
  const GrowArgs args{.count = n,
                      .mask = bytes_of(mask),
                      .forbid = nullptr,
                      .kept = room.kept,
                      .grown = room.grown,
                      .free = room.free,
                      .allow = false,
                      .total = nullptr,
                      .fresh = room.fresh,
                      .places = static_cast<std::int64_t*>(places.data)};
  for (const regrow::Followed& one : arrays) {
    with_bits_of(one.array.dtype, [&]<class U>(U) {
      const GrowFollowed<U> followed{
          .data = static_cast<U*>(one.array.data),
          .source = one.source ? static_cast<const U*>(one.source->data) : nullptr,
          .value = static_cast<U>(encode(one.value, one.array.dtype)),
          .clears = one.clears};
      launch(grow_follow<U>, dim3(grid_x(ceil_div(n, kMaskThreads))), dim3(kMaskThreads), 0, stream,
             args, followed);
    });
  }
  launch(grow_finish, dim3(grid_x(ceil_div(n, kTile))), dim3(kMaskThreads), 0, stream, args);
}

namespace {

std::int64_t width_of(const TensorView& array) {
  return array.shape[0] == 0 ? 0 : array.numel() / array.shape[0];
}

/// The type of the scores that places of a list are chosen by.
DType list_type(const regrow::Coordinates& given) {
  if (given.score) return prune::dtype_of(*given.score);
  const std::int64_t count = given.rows.rank == 1 ? given.rows.shape[0] : 0;
  return count <= 1 << 24 ? DType::f32 : DType::f64;  // float32 numbers them without rounding
}

/// The memory of a change of a matrix's entries. What chooses and what is moved need theirs one
/// after the other.
struct RowsRoom {
  RowsRoom(void* base, const regrow::RowStructure& structure, const regrow::Drop& drop,
           const regrow::RowsGrowth& grow, std::int64_t after,
           std::span<const regrow::Followed> arrays) {
    const std::int64_t nnz = structure.nnz(), cells = structure.rows() * structure.cols();
    Carver carver(base);
    keep = carver.take<std::uint8_t>(nnz);
    grown = carver.take<std::uint8_t>(cells);
    total = carver.take<Count>(1);
    indptr = carver.take<int>(structure.rows() + 1);
    indices = carver.take<int>(after);
    rest = carver.take_bytes(0);
    const std::int64_t kept = carver.used();
    free = carver.take<std::uint8_t>(cells);
    const auto* given = std::get_if<regrow::Coordinates>(&grow);
    if (given != nullptr) {
      first = carver.take<unsigned>(cells);
      outside = carver.take<unsigned>(1);
      scores = carver.take_bytes(cells * size_of(list_type(*given)));
    }
    choice = carver.take_bytes(0);
    std::int64_t most = given != nullptr ? select_bytes(cells, 1, list_type(*given))
                                         : choice_bytes(std::get_if<prune::Score>(&grow), cells);
    if (const auto* score = std::get_if<prune::Score>(&drop)) {
      most = std::max(most, choice_bytes(score, nnz));
    }
    bytes = carver.used() + most;
    for (const regrow::Followed& one : arrays) {
      const std::int64_t moved = nnz * width_of(one.array) * size_of(one.array.dtype);
      bytes = std::max(bytes, kept + moved);
    }
  }

  std::uint8_t *keep, *grown, *free;
  Count* total;
  int *indptr, *indices;
  unsigned *first = nullptr, *outside = nullptr;
  void* scores = nullptr;
  void *choice, *rest;  // the second for what is moved, in the place of `free` and what follows it
  std::int64_t bytes;
};

/// Marks the n_grow places of a list that come first, by score or by number, among those that are
/// free. Waits.
void grow_listed(const Checker& check, const regrow::Coordinates& given, std::int64_t n_grow,
                 const regrow::RowStructure& structure, const RowsRoom& room,
                 const regrow::RegrowOptions& options, Stream stream) {
  const std::int64_t cells = structure.rows() * structure.cols(), count = given.rows.shape[0];
  GrowListArgs args{.row = given.rows.data,
                    .column = given.cols.data,
                    .row_stride = given.rows.strides[0],
                    .column_stride = given.cols.strides[0],
                    .count = count,
                    .wide_rows = given.rows.dtype == DType::i64,
                    .wide_columns = given.cols.dtype == DType::i64,
                    .rows = structure.rows(),
                    .cols = structure.cols(),
                    .first = room.first,
                    .outside = room.outside,
                    .places = room.free,
                    .scores = room.scores};
  const dim3 block(kMaskThreads);
  fill_ones(room.first, cells * 4, stream);
  fill_ones(room.outside, 4, stream);
  launch(grow_list_first, dim3(grid_x(ceil_div(count, kMaskThreads))), block, 0, stream, args);
  unsigned outside = 0;
  copy_to_host(&outside, room.outside, sizeof(outside), stream);
  if (outside != 0xffffffffu) {
    const auto number = [&](const TensorView& array) {
      std::int64_t value = 0;
      const std::int64_t size = size_of(array.dtype);
      const auto* at =
          static_cast<const std::byte*>(array.data) + outside * array.strides[0] * size;
      int narrow = 0;
      copy_to_host(size == 8 ? static_cast<void*>(&value) : &narrow, at, size, stream);
      return size == 8 ? value : std::int64_t{narrow};
    };
    detail::check_place(check, outside, number(given.rows), number(given.cols), args.rows,
                        args.cols);
  }
  const DType type = list_type(given);
  const ScoreArgs score = given.score ? score_args(*given.score) : ScoreArgs{};
  const dim3 grid(grid_x(ceil_div(cells, kMaskThreads)));
  if (type == DType::f64) {
    launch(grow_list_scores<double>, grid, block, 0, stream, args, score);
  } else {
    launch(grow_list_scores<float>, grid, block, 0, stream, args, score);
  }
  const std::int64_t open = count_nonzero(room.free, cells, room.total, stream);
  detail::check_number(check, "n_grow", n_grow, open, "given places that may grow");
  const prune::Score places{.w = make_view(room.scores, type, {cells}),
                            .kind = prune::ScoreKind::value};
  choose(check, kOpOfRows, places, n_grow, room.free, room.grown, options, room.choice, stream);
}

dim3 rows_grid(std::int64_t rows) { return dim3(grid_x(ceil_div(rows, kGrowWarps))); }

}  // namespace

std::int64_t csr_drop_grow_workspace(const regrow::RowStructure& structure,
                                     const regrow::Drop& drop, const regrow::RowsGrowth& grow,
                                     std::int64_t n_drop, std::int64_t n_grow,
                                     std::span<const regrow::Followed> arrays) {
  const std::int64_t after = regrow::entries_after(structure, n_drop, n_grow);
  return RowsRoom(nullptr, structure, drop, grow, after, arrays).bytes;
}

void csr_drop_grow_(const regrow::RowStructure& structure, const regrow::Drop& drop,
                    const regrow::RowsGrowth& grow, std::int64_t n_drop, std::int64_t n_grow,
                    const regrow::Forbidden& forbid, std::span<const regrow::Followed> arrays,
                    const TensorView& src, const regrow::RegrowOptions& options,
                    const TensorView& workspace, Stream stream) {
  const Checker check(kOpOfRows, DeviceType::cuda);
  const std::int64_t after = regrow::entries_after(structure, n_drop, n_grow);
  const std::int64_t nnz = structure.nnz(), cells = structure.rows() * structure.cols();
  const Device device = structure.indptr().device;
  detail::check_drop_grow_rows(check, structure, grow, after, forbid, arrays, src);
  detail::check_drop(check, drop, nnz, n_drop, device);
  const auto* given = std::get_if<regrow::Coordinates>(&grow);
  if (given != nullptr) {
    detail::check_coordinates(check, *given);
    check.device({"grow rows", given->rows}, device, "indices");
    check.device({"grow columns", given->cols}, device, "indices");
    if (given->score) check.device({"grow scores", given->score->w}, device, "indices");
    if (given->rows.shape[0] >= 0xffffffff) check.value_error("grow lists 2^32 places or more");
  }
  require_int(check, "a", structure.indices().dtype, structure.rows(), structure.cols());
  if (forbid) {
    require_int(check, "forbid", forbid->indices().dtype, forbid->rows(), forbid->cols());
  }
  const std::int64_t stays = options.allow ? nnz - n_drop : nnz;
  if (given != nullptr && cells == 0) {
    detail::check_number(check, "n_grow", n_grow, 0, "given places that may grow");
  } else if (given == nullptr && (!forbid || cells == 0)) {
    detail::check_number(check, "n_grow", n_grow, cells - stays, "places that may grow");
  }
  if (cells == 0) return;
  check.workspace(workspace, device,
                  csr_drop_grow_workspace(structure, drop, grow, n_drop, n_grow, arrays));
  const RowsRoom room(workspace.data, structure, drop, grow, after, arrays);
  const DeviceGuard guard(device);
  if (forbid || given != nullptr) {
    require_waiting(stream, kOpOfRows, "the number of places that may grow");
  }
  const std::uint8_t* keep = room.keep;
  if (const auto* score = std::get_if<prune::Score>(&drop)) {
    if (nnz > 0) {
      choose(check, kOpOfRows, *score, nnz - n_drop, nullptr, room.keep, options, room.choice,
             stream);
    }
  } else {
    require_waiting(stream, kOpOfRows, "the number of zeros of keep");
    keep = bytes_of(std::get<TensorView>(drop));
    detail::check_dropped(check, nnz - count_nonzero(keep, nnz, room.total, stream), n_drop);
  }

  // Where something may grow, and what of it does.
  GrowRowsArgs entries{.indptr = static_cast<const int*>(structure.indptr().data),
                       .indices = static_cast<const int*>(structure.indices().data),
                       .rows = static_cast<int>(structure.rows()),
                       .cols = structure.cols(),
                       .keep = options.allow ? keep : nullptr,
                       .places = room.free};
  const dim3 grid = rows_grid(structure.rows()), block(kGrowThreads);
  fill_ones(room.free, cells, stream);
  launch(grow_mark_entries, grid, block, 0, stream, entries, std::uint8_t{0});
  std::int64_t candidates = cells - stays;
  if (forbid) {
    GrowRowsArgs others = entries;
    others.indptr = static_cast<const int*>(forbid->indptr().data);
    others.indices = static_cast<const int*>(forbid->indices().data);
    others.keep = nullptr;
    launch(grow_mark_entries, grid, block, 0, stream, others, std::uint8_t{0});
    candidates = count_nonzero(room.free, cells, room.total, stream);
    if (given == nullptr) {
      detail::check_number(check, "n_grow", n_grow, candidates, "places that may grow");
    }
  }
  if (const auto* score = std::get_if<prune::Score>(&grow)) {
    choose(check, kOpOfRows, *score, n_grow, room.free, room.grown, options, room.choice, stream);
  } else if (given != nullptr) {
    grow_listed(check, *given, n_grow, structure, room, options, stream);
  } else {
    draw(std::get<regrow::RandomGrowth>(grow), n_grow, candidates, cells, room.free, room.grown,
         room.choice, stream);
  }

  // The new structure, and where its entries were.
  entries.keep = keep;
  entries.places = room.grown;
  launch(grow_mark_entries, grid, block, 0, stream, entries, std::uint8_t{1});
  const Marks marks{
      .data = room.grown, .rows = entries.rows, .cols = static_cast<int>(structure.cols())};
  sum_marks(marks, room.indptr, stream);
  fill_marks(marks, room.indptr, room.indices, stream);
  fill_ones(src.data, after * 4, stream);
  launch(grow_trace_entries, grid, block, 0, stream, entries, room.indptr, room.indices,
         static_cast<int*>(src.data));
  for (const regrow::Followed& one : arrays) {
    const std::int64_t width = width_of(one.array);
    with_bits_of(one.array.dtype, [&]<class U>(U) {
      const GrowMoved<U> moved{.to = static_cast<U*>(one.array.data),
                               .from = static_cast<const U*>(room.rest),
                               .value = static_cast<U>(encode(one.value, one.array.dtype)),
                               .width = width};
      copy(room.rest, one.array.data, nnz * width * static_cast<std::int64_t>(sizeof(U)), stream);
      launch(grow_move<U>, dim3(grid_x(ceil_div(after * width, kGrowThreads))), block, 0, stream,
             static_cast<const int*>(src.data), after, moved);
    });
  }
  copy(structure.indices().data, room.indices, after * 4, stream);
  copy(structure.indptr().data, room.indptr, (structure.rows() + 1) * 4, stream);
}

void block_norms(const TensorView& blocks, const TensorView& norms, Stream stream) {
  detail::check_block_norms(Checker("block_norms", DeviceType::cuda), blocks, norms);
  const DeviceGuard guard(blocks.device);
  const std::int64_t count = blocks.shape[0], size = width_of(blocks);
  const dim3 grid(grid_x(ceil_div(count, kGrowThreads))), block(kGrowThreads);
  if (norms.dtype == DType::f64) {
    launch(grow_block_norms<double>, grid, block, 0, stream, blocks.data, blocks.dtype, count, size,
           static_cast<double*>(norms.data));
  } else {
    launch(grow_block_norms<float>, grid, block, 0, stream, blocks.data, blocks.dtype, count, size,
           static_cast<float*>(norms.data));
  }
}

}  // namespace gossamer::cuda
