#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "base/carver.h"
#include "base/runtime.h"
#include "prune/kernels/select_scan.cuh"
#include "prune/select.h"

namespace gossamer::cuda {
namespace {

/// Below this, all passes run over all elements.
constexpr std::int64_t kLeastScanned = 1 << 16;
/// Blocks of a pass whose blocks take several tiles each.
constexpr std::int64_t kBlocks = 1056;

std::int64_t sample_runs(std::int64_t total) {
  if (total < kLeastScanned) return 0;
  return (total < (1 << 20) ? 4096 : total < (1 << 27) ? 16384 : 65536) / kSampleRun;
}

std::int64_t pool_size(std::int64_t total) {
  return total < kLeastScanned ? 0 : std::min<std::int64_t>(total / 16, 0xffffffff);
}

/// The memory of a selection.
struct Room {
  Room(void* base, std::int64_t total, std::int64_t tiles, DType type) {
    Carver carver(base);
    const std::int64_t key = type == DType::f64 ? 8 : 4;
    state = carver.take<SelectState>(1);
    bins = carver.take<Count>(kMostPasses * kBins);
    group_ties = carver.take<Count>(kTieGroups);
    zeros = carver.used();
    entries = carver.take<TileEntries>(tiles);
    ties = carver.take<unsigned>(tiles);
    samples = carver.take_bytes(sample_runs(total) * kSampleRun * key);
    pool_keys = carver.take_bytes(pool_size(total) * key);
    pool_places = carver.take<std::uint16_t>(pool_size(total));
    bytes = carver.used();
  }

  SelectState* state;
  Count *bins, *group_ties;
  TileEntries* entries;
  unsigned* ties;
  void *samples, *pool_keys;
  std::uint16_t* pool_places;
  std::int64_t zeros, bytes;
};

/// The parts that have elements, with their places among all; returns the number of tiles.
std::int64_t lay_out(std::span<SelectPart> parts, std::vector<SelectPart>& laid) {
  std::int64_t tiles = 0, first = 0;
  for (SelectPart part : parts) {
    if (part.count == 0) continue;
    part.first_tile = tiles;
    part.first = first;
    tiles += ceil_div(part.count, kTile);
    first += part.count;
    laid.push_back(part);
  }
  return tiles;
}

/// Calls f(args, parts) for each launch of a pass over the parts.
template <class F>
void each_launch(const std::vector<SelectPart>& laid, SelectArgs args, F&& f) {
  for (std::size_t begin = 0; begin < laid.size(); begin += kSelectParts) {
    const std::size_t end = std::min(laid.size(), begin + kSelectParts);
    SelectParts parts{};
    std::copy(laid.begin() + static_cast<std::ptrdiff_t>(begin),
              laid.begin() + static_cast<std::ptrdiff_t>(end), parts.part);
    args.parts = static_cast<int>(end - begin);
    args.first_tile = laid[begin].first_tile;
    args.tiles = (end < laid.size() ? laid[end].first_tile : args.all_tiles) - args.first_tile;
    f(args, parts);
  }
}

/// The blocks of a pass whose blocks take several tiles each.
std::int64_t blocks_of(const SelectArgs& args) { return std::min(args.tiles, kBlocks); }

/// What all passes are told; without k.
SelectArgs args_of(const Room& room, std::int64_t tiles, std::int64_t total,
                   const prune::SelectOptions& options) {
  SelectArgs args{};
  args.all_tiles = tiles;
  args.total = total;
  args.tie_high = options.tie == prune::Tie::high;
  args.format = options.format;
  args.state = room.state;
  args.entries = room.entries;
  args.ties = room.ties;
  args.group_ties = room.group_ties;
  args.group_tiles = ceil_div(tiles, kTieGroups);
  args.bins = room.bins;
  args.samples = room.samples;
  args.sample_runs = sample_runs(total);
  args.pool_keys = room.pool_keys;
  args.pool_places = room.pool_places;
  args.capacity = static_cast<Count>(pool_size(total));
  return args;
}

int passes_of(DType type) { return static_cast<int>(ceil_div(8 * size_of(type), kBinBits)); }

/// The blocks of all launches of a pass of that kind.
std::int64_t all_blocks(const std::vector<SelectPart>& laid, const SelectArgs& args) {
  std::int64_t blocks = 0;
  each_launch(laid, args, [&](const SelectArgs& a, const SelectParts&) { blocks += blocks_of(a); });
  return blocks;
}

/// The passes that give out ties and put marks right.
template <class K>
void mark(const std::vector<SelectPart>& laid, const SelectArgs& args, const KeyMap<K>& map,
          Stream stream) {
  const dim3 block(kMaskThreads);
  each_launch(laid, args, [&](const SelectArgs& a, const SelectParts& parts) {
    launch(select_ties<K>, dim3(grid_x(blocks_of(a))), block, 0, stream, a, parts, map);
  });
  each_launch(laid, args, [&](const SelectArgs& a, const SelectParts& parts) {
    launch(select_mark<K>, dim3(grid_x(blocks_of(a))), block, 0, stream, a, parts, map);
  });
}

template <class K>
void run(const Selection& selection, const std::vector<SelectPart>& laid, SelectArgs args,
         Stream stream) {
  const prune::SelectOptions& options = selection.options;
  const KeyMap<K> map = key_map<K>(selection.type, options.largest, options.nan);
  const dim3 block(kMaskThreads);
  if (args.sample_runs > 0) {
    each_launch(laid, args, [&](const SelectArgs& a, const SelectParts& parts) {
      const dim3 grid(grid_x(ceil_div(a.sample_runs * kSampleRun, kMaskThreads)));
      launch(select_sample<K>, grid, block, 0, stream, a, parts, map);
    });
  }
  launch(select_bracket<K>, dim3(1), dim3(kBracketThreads), 0, stream, args, map);
  if (args.sample_runs > 0) {
    args.blocks = args.all_tiles;
    each_launch(laid, args, [&](const SelectArgs& a, const SelectParts& parts) {
      launch(select_scan<K>, dim3(grid_x(a.tiles)), block, 0, stream, a, parts, map);
    });
  }
  args.blocks = all_blocks(laid, args);
  for (int pass = 0; pass < passes_of(selection.type); ++pass) {
    each_launch(laid, args, [&](const SelectArgs& a, const SelectParts& parts) {
      launch(select_narrow<K>, dim3(grid_x(blocks_of(a))), block, 0, stream, a, parts, map, pass);
    });
  }
  const auto marks = [](const SelectPart& part) { return part.mask != nullptr; };
  if (std::none_of(laid.begin(), laid.end(), marks)) return;
  mark<K>(laid, args, map, stream);
}

}  // namespace

std::int64_t select_bytes(std::int64_t total, std::int64_t parts, DType type) {
  return Room(nullptr, total, total / kTile + parts, type).bytes;
}

void select(const Selection& selection, void* workspace, Stream stream) {
  std::vector<SelectPart> laid;
  const std::int64_t tiles = lay_out(selection.parts, laid);
  if (laid.empty()) return;
  const std::int64_t total = laid.back().first + laid.back().count;
  const Room room(workspace, total, tiles, selection.type);
  fill_zero(workspace, room.zeros, stream);
  SelectArgs args = args_of(room, tiles, total, selection.options);
  args.k = selection.k;
  with_key_type(selection.type, [&]<class K>(K) { run<K>(selection, laid, args, stream); });
}

namespace {

/// The number that a key was made of.
template <class K>
double value_of(K key, DType type, const KeyMap<K>& map) {
  if (key == map.nan) return std::numeric_limits<double>::quiet_NaN();
  const K plain = key ^ map.flip;
  const K bits = plain >= map.sign ? plain - map.sign : map.sign | (map.sign - plain);
  double value = 0;
  with_element_type(type, [&]<class T>(T) {
    T number;
    std::memcpy(static_cast<void*>(&number), &bits, sizeof(T));
    if constexpr (sizeof(T) == 2) {
      value = static_cast<double>(static_cast<float>(number));
    } else {
      value = static_cast<double>(number);
    }
  });
  return value;
}

}  // namespace

prune::Kth find_kth(const SelectPart& part, std::int64_t k, DType type,
                    const prune::SelectOptions& options, void* workspace, Stream stream) {
  SelectPart own = part;
  own.mask = nullptr;
  select({.parts = {&own, 1}, .k = k, .type = type, .options = options}, workspace, stream);
  SelectState state;
  copy_to_host(&state, Room(workspace, part.count, 0, type).state, sizeof(state), stream);
  prune::Kth found;
  found.n_tie = static_cast<std::int64_t>(state.rank);
  found.n_strict = k - found.n_tie;
  with_key_type(type, [&]<class K>(K) {
    found.threshold =
        value_of(static_cast<K>(state.lo), type, key_map<K>(type, options.largest, options.nan));
  });
  return found;
}

namespace {

/// How many keys of the parts are wanted(map). Waits for the stream.
template <class Wanted>
std::int64_t count_keys(std::span<SelectPart> parts, DType type,
                        const prune::SelectOptions& options, void* workspace, Stream stream,
                        Wanted&& wanted) {
  std::vector<SelectPart> laid;
  SelectArgs args{};
  args.all_tiles = lay_out(parts, laid);
  if (laid.empty()) return 0;
  auto* counted = static_cast<Count*>(workspace);
  fill_zero(counted, sizeof(Count), stream);
  with_key_type(type, [&]<class K>(K) {
    const KeyMap<K> map = key_map<K>(type, options.largest, options.nan);
    const K key = static_cast<K>(wanted(map));
    each_launch(laid, args, [&](const SelectArgs& a, const SelectParts& some) {
      launch(select_equal<K>, dim3(grid_x(blocks_of(a))), dim3(kMaskThreads), 0, stream, a, some,
             map, key, counted);
    });
  });
  std::int64_t count = 0;
  copy_to_host(&count, counted, sizeof(count), stream);
  return count;
}

}  // namespace

std::int64_t count_nans(std::span<SelectPart> parts, DType type, void* workspace, Stream stream) {
  return count_keys(parts, type, {}, workspace, stream, [](const auto& map) { return map.nan; });
}

void refuse_nans(const detail::Checker& check, const char* op, std::span<SelectPart> parts,
                 DType type, void* workspace, Stream stream, const char* name) {
  require_waiting(stream, op, "the number of NaN");
  detail::refuse_nan(check, count_nans(parts, type, workspace, stream), name);
}

// The halves of a selection over several processes.

void selection_histogram(const prune::Selection& selection, const prune::Score& score,
                         std::span<std::int64_t> counts, const TensorView& workspace,
                         Stream stream) {
  const detail::Checker check("Selection", DeviceType::cuda);
  detail::check_open(check, selection, "histogram");
  detail::check_bins(check, counts.size());
  detail::check_part(check, selection, score);
  if (score.w.numel() == 0) return;
  check.workspace(workspace, score.w.device, kSelectionWorkspace);
  require_waiting(stream, "Selection", "the counts");
  const prune::Selection::State& state = selection.state();
  const DeviceGuard guard(score.w.device);
  SelectPart part = part_of(score, state.dtype, nullptr, nullptr);
  std::vector<SelectPart> laid;
  SelectArgs args{};
  args.all_tiles = lay_out({&part, 1}, laid);
  auto* bins = static_cast<Count*>(workspace.data);
  fill_zero(bins, kSelectionWorkspace, stream);
  with_key_type(state.dtype, [&]<class K>(K) {
    const KeyMap<K> map = key_map<K>(state.dtype, state.options.largest, state.options.nan);
    each_launch(laid, args, [&](const SelectArgs& a, const SelectParts& parts) {
      launch(select_bins<K>, dim3(grid_x(blocks_of(a))), dim3(kMaskThreads), 0, stream, a, parts,
             map, static_cast<K>(state.lo), static_cast<K>(state.hi), state.shift(), bins);
    });
  });
  std::vector<std::int64_t> own(counts.size());
  copy_to_host(own.data(), bins, kSelectionWorkspace, stream);
  for (std::size_t i = 0; i < own.size(); ++i) counts[i] += own[i];
}

std::int64_t selection_ties(const prune::Selection& selection, const prune::Score& score,
                            const TensorView& workspace, Stream stream) {
  const detail::Checker check("Selection", DeviceType::cuda);
  detail::check_done(check, selection, "ties");
  detail::check_part(check, selection, score);
  if (score.w.numel() == 0) return 0;
  check.workspace(workspace, score.w.device, kSelectionWorkspace);
  require_waiting(stream, "Selection", "the number of ties");
  const prune::Selection::State& state = selection.state();
  const DeviceGuard guard(score.w.device);
  SelectPart part = part_of(score, state.dtype, nullptr, nullptr);
  return count_keys({&part, 1}, state.dtype, state.options, workspace.data, stream,
                    [&](const auto&) { return state.lo; });
}

std::int64_t selection_emit_workspace(const prune::Selection& selection,
                                      const prune::Score& score) {
  return select_bytes(score.w.numel(), 1, selection.state().dtype);
}

void selection_emit(const prune::Selection& selection, const prune::Score& score,
                    std::int64_t ties_before, const TensorView& out, const TensorView& workspace,
                    Stream stream) {
  const detail::Checker check("Selection", DeviceType::cuda);
  const std::int64_t rank = detail::check_emit(check, selection, score, ties_before, out);
  const std::int64_t n = score.w.numel();
  if (n == 0) return;
  check.workspace(workspace, score.w.device, selection_emit_workspace(selection, score));
  const prune::Selection::State& state = selection.state();
  const DeviceGuard guard(score.w.device);
  SelectPart part = part_of(score, state.dtype, nullptr, bytes_of(out));
  std::vector<SelectPart> laid;
  const std::int64_t tiles = lay_out({&part, 1}, laid);
  const Room room(workspace.data, n, tiles, state.dtype);
  fill_zero(workspace.data, room.zeros, stream);
  SelectArgs args = args_of(room, tiles, n, state.options);
  args.blocks = all_blocks(laid, args);
  with_key_type(state.dtype, [&]<class K>(K) {
    launch(select_known<K>, dim3(1), dim3(1), 0, stream, room.state, static_cast<K>(state.lo),
           static_cast<Count>(rank));
    mark(laid, args, key_map<K>(state.dtype, state.options.largest, state.options.nan), stream);
  });
}

}  // namespace gossamer::cuda
