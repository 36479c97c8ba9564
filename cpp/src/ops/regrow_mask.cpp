#include <algorithm>
#include <array>
#include <bit>
#include <utility>
#include <vector>

#include "buffer.h"
#include "gossamer/regrow.h"
#include "ops/product.h"
#include "ops/regrow_common.h"
#include "ops/regrow_random.h"

namespace gossamer {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 16;  // entries that a task takes
constexpr std::int64_t kBlock = 2048;                   // entries whose changes are listed at once

struct FreeTag {};

std::int64_t chunks_of(std::int64_t n) { return (n + kChunk - 1) / kChunk; }

/// Calls f(begin, end) -> count for each chunk and returns the counts' prefix sums [chunks+1].
template <class F>
std::vector<std::int64_t> sums_of_chunks(std::int64_t n, F&& f) {
  std::vector<std::int64_t> sums(static_cast<std::size_t>(chunks_of(n)) + 1, 0);
  for_tasks(chunks_of(n), 0.3 * static_cast<double>(n), [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * kChunk;
    sums[static_cast<std::size_t>(chunk) + 1] = f(begin, std::min(n, begin + kChunk));
  });
  for (std::size_t i = 1; i < sums.size(); ++i) sums[i] += sums[i - 1];
  return sums;
}

const std::uint8_t* bytes_of(const TensorView& mask) {
  return static_cast<const std::uint8_t*>(mask.data);
}

TensorView like_mask(const TensorView& like, std::uint8_t* data) {
  TensorView view = like;
  view.data = data;
  view.dtype = DType::boolean;
  view.readonly = false;
  return view;
}

// Pointers are parameters here, and restricted, because bytes may alias whatever a lambda captures:
// the loops would not be vectorised.

/// free[i] = whether i is neither taken nor forbidden, which may be null.
void open_places(const std::uint8_t* __restrict taken, const std::uint8_t* __restrict forbidden,
                 std::int64_t begin, std::int64_t end, std::uint8_t* __restrict free) {
  if (forbidden == nullptr) {
    for (std::int64_t i = begin; i < end; ++i) free[i] = taken[i] == 0;
  } else {
    for (std::int64_t i = begin; i < end; ++i) {
      free[i] = static_cast<std::uint8_t>((taken[i] == 0) & (forbidden[i] == 0));
    }
  }
}

/// Moves what was active from grown to kept.
void settle(const std::uint8_t* __restrict active, std::int64_t begin, std::int64_t end,
            std::uint8_t* __restrict kept, std::uint8_t* __restrict grown) {
  for (std::int64_t i = begin; i < end; ++i) {
    const auto again = static_cast<std::uint8_t>((active[i] != 0) & grown[i]);
    kept[i] = static_cast<std::uint8_t>(kept[i] | again);
    grown[i] = static_cast<std::uint8_t>(grown[i] ^ again);
  }
}

/// Sets grown at the places of increasing ranks among those that are free. before[chunk] counts
/// the free places before a chunk.
void place_ranks(const std::uint8_t* free, std::int64_t n, const std::vector<std::int64_t>& before,
                 const Buffer<std::int64_t>& ranks, std::uint8_t* grown) {
  for_tasks(chunks_of(n), 0.3 * static_cast<double>(n), [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * kChunk, end = std::min(n, begin + kChunk);
    std::fill(grown + begin, grown + end, std::uint8_t{0});
    const auto c = static_cast<std::size_t>(chunk);
    const std::int64_t* const first = ranks.data();
    const std::int64_t* const last = first + ranks.size();
    const std::int64_t* rank = std::lower_bound(first, last, before[c]);
    std::int64_t seen = before[c];
    for (std::int64_t i = begin; i < end && rank != last && *rank < before[c + 1]; i += 8) {
      const std::uint64_t word = i + 8 <= end ? load_word(free + i) : load_part(free + i, end - i);
      const std::int64_t after = seen + count_ones(word);
      if (*rank >= after) {
        seen = after;
        continue;
      }
      for (std::int64_t j = i; j < std::min(end, i + 8); ++j) {
        if (free[j] == 0) continue;
        if (rank != last && *rank == seen) {
          grown[j] = 1;
          ++rank;
        }
        ++seen;
      }
    }
  });
}

/// Writes value, or source's elements, at the listed places of an array.
template <class T>
void write_places(const Followed& followed, std::uint64_t bits, const std::int64_t* places,
                  std::int64_t n) {
  T* data = static_cast<T*>(followed.array.data);
  if (followed.source) {
    const T* source = static_cast<const T*>(followed.source->data);
    for (std::int64_t i = 0; i < n; ++i) data[places[i]] = source[places[i]];
  } else {
    for (std::int64_t i = 0; i < n; ++i) data[places[i]] = static_cast<T>(bits);
  }
}

template <class F>
void with_storage(DType dtype, F&& f) {
  switch (size_of(dtype)) {
    case 2:
      f(std::uint16_t{});
      break;
    case 4:
      f(std::uint32_t{});
      break;
    default:
      f(std::uint64_t{});
      break;
  }
}

}  // namespace

struct MaskRegrowth::State {
  TensorView mask;  // for its shape and device
  RegrowOptions options;
  Buffer<std::uint8_t> kept, grown;
  std::vector<std::int64_t> fresh;  // before each chunk
};

MaskRegrowth::MaskRegrowth(MaskRegrowth&&) noexcept = default;
MaskRegrowth::~MaskRegrowth() = default;

MaskRegrowth::MaskRegrowth(const TensorView& mask, const Score& drop, const Growth& grow,
                           std::int64_t n_drop, std::int64_t n_grow,
                           const std::optional<TensorView>& forbid, const RegrowOptions& options)
    : state_(std::make_unique<State>()) {
  const Checker check(options.op);
  check.device({"mask", mask}, mask.device, "mask");
  check_mask(check, {"mask", mask});
  check_score(drop, options.op);
  check_same_shape(check, {"drop_score", drop.w}, {"mask", mask});
  const Score* score = std::get_if<Score>(&grow);
  if (score != nullptr) {
    check_score(*score, options.op);
    check_same_shape(check, {"grow_score", score->w}, {"mask", mask});
  }
  if (forbid) {
    check.device({"forbid", *forbid}, mask.device, "mask");
    check_mask(check, {"forbid", *forbid});
    check_same_shape(check, {"forbid", *forbid}, {"mask", mask});
  }
  const std::int64_t n = mask.numel();
  const std::uint8_t* active = bytes_of(mask);
  const std::int64_t nnz = sums_of_chunks(n, [&](std::int64_t begin, std::int64_t end) {
                             return count_nonzero(active + begin, end - begin);
                           }).back();
  check_number(check, "n_drop", n_drop, nnz, "active entries");

  const SelectOptions select{.largest = true,
                             .tie = options.tie,
                             .nan = options.nan,
                             .format = MaskFormat::bytes,
                             .op = options.op};
  Buffer<std::uint8_t> kept(n), grown(n);
  const Scratch<FreeTag> free_bytes(n);
  auto* const free = free_bytes.as<std::uint8_t>();
  const TensorView kept_view = like_mask(mask, kept.data());
  topk_mask(std::span(&drop, 1), nnz - n_drop, select, std::span(&mask, 1),
            std::span(&kept_view, 1));

  const std::uint8_t* taken = options.allow ? kept.data() : active;
  const std::uint8_t* forbidden = forbid ? bytes_of(*forbid) : nullptr;
  const auto before = sums_of_chunks(n, [&](std::int64_t begin, std::int64_t end) {
    open_places(taken, forbidden, begin, end, free);
    return count_nonzero(free + begin, end - begin);
  });
  check_number(check, "n_grow", n_grow, before.back(), "places that may grow");
  if (score != nullptr) {
    const TensorView free_view = like_mask(mask, free);
    const TensorView grown_view = like_mask(mask, grown.data());
    topk_mask(std::span(score, 1), n_grow, select, std::span(&free_view, 1),
              std::span(&grown_view, 1));
  } else {
    const auto ranks = draw_ranks(before.back(), n_grow, std::get<RandomGrowth>(grow));
    place_ranks(free, n, before, ranks, grown.data());
  }
  // What was active and grows again counts as kept, so that `grown` is what is fresh.
  state_->fresh = sums_of_chunks(n, [&](std::int64_t begin, std::int64_t end) {
    settle(active, begin, end, kept.data(), grown.data());
    return count_nonzero(grown.data() + begin, end - begin);
  });
  state_->mask = mask;
  state_->options = options;
  state_->kept = std::move(kept);
  state_->grown = std::move(grown);
}

std::int64_t MaskRegrowth::fresh() const noexcept { return state_->fresh.back(); }

void MaskRegrowth::apply(const TensorView& mask, std::span<const Followed> arrays,
                         const TensorView& places) const {
  const Checker check(state_->options.op);
  check_mask(check, {"mask", mask});
  check.device({"mask", mask}, state_->mask.device, "mask");
  check_same_shape(check, {"mask", mask}, {"the mask that was looked at", state_->mask});
  check.writable({"mask", mask}, {{"the result", places}});
  check.dtype({"the result", places}, DType::i64, "the indices'");
  check.shape({"the result", places}, {fresh()});
  check_contiguous(check, {"the result", places});
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const Followed& one = arrays[i];
    check_same_shape(check, {one.name, one.array}, {"mask", mask});
    check_followed(check, one, mask.device, "mask");
    check.writable({one.name, one.array}, {{"mask", mask}, {"the result", places}});
    for (std::size_t j = 0; j < i; ++j) {
      check.writable({one.name, one.array}, {{arrays[j].name, arrays[j].array}});
    }
  }

  std::vector<std::uint64_t> bits;
  for (const Followed& one : arrays) bits.push_back(encode(one.value, one.array.dtype));
  const std::int64_t n = mask.numel();
  auto* active = static_cast<std::uint8_t*>(mask.data);
  auto* out = static_cast<std::int64_t*>(places.data);
  const std::uint8_t* kept = state_->kept.data();
  const std::uint8_t* grown = state_->grown.data();
  for_tasks(chunks_of(n), 0.5 * static_cast<double>(n), [&](std::int64_t chunk) {
    const std::int64_t end = std::min(n, (chunk + 1) * kChunk);
    std::int64_t* fresh = out + state_->fresh[static_cast<std::size_t>(chunk)];
    std::array<std::int64_t, kBlock> dropped;
    for (std::int64_t block = chunk * kChunk; block < end; block += kBlock) {
      const std::int64_t* first = fresh;
      std::int64_t n_dropped = 0;
      const auto note = [&](std::int64_t i, std::uint64_t before, std::uint64_t stays,
                            std::uint64_t grows) {
        for (std::uint64_t set = grows; set != 0; set &= set - 1) {
          *fresh++ = i + std::countr_zero(set) / 8;
        }
        for (std::uint64_t set = before & ~(stays | grows); set != 0; set &= set - 1) {
          dropped[static_cast<std::size_t>(n_dropped++)] = i + std::countr_zero(set) / 8;
        }
      };
      const std::int64_t stop = std::min(end, block + kBlock);
      std::int64_t i = block;
      for (; i + 8 <= stop; i += 8) {
        const std::uint64_t before = ones_of(load_word(active + i));
        const std::uint64_t stays = load_word(kept + i), grows = load_word(grown + i);
        const std::uint64_t after = stays | grows;
        std::memcpy(active + i, &after, 8);
        if ((before & ~stays) != 0 || grows != 0) note(i, before, stays, grows);
      }
      if (i < stop) {
        const std::uint64_t before = ones_of(load_part(active + i, stop - i));
        for (std::int64_t j = i; j < stop; ++j) {
          active[j] = static_cast<std::uint8_t>(kept[j] | grown[j]);
        }
        note(i, before, load_part(kept + i, stop - i), load_part(grown + i, stop - i));
      }
      for (std::size_t a = 0; a < arrays.size(); ++a) {
        with_storage(arrays[a].array.dtype, [&](auto type) {
          using T = decltype(type);
          if (arrays[a].clears) {
            T* data = static_cast<T*>(arrays[a].array.data);
            for (std::int64_t d = 0; d < n_dropped; ++d)
              data[dropped[static_cast<std::size_t>(d)]] = 0;
          }
          write_places<T>(arrays[a], bits[a], first, fresh - first);
        });
      }
    }
  });
}

namespace {

/// positive[i] and negative[i] for values of a type with these bits.
template <class T>
void split_signs(const T* values, std::int64_t n, T infinity, std::uint8_t* positive,
                 std::uint8_t* negative) {
  constexpr T kSign = static_cast<T>(T{1} << (8 * sizeof(T) - 1));
  for (std::int64_t i = 0; i < n; ++i) {
    const T magnitude = static_cast<T>(values[i] & static_cast<T>(~kSign));
    const bool number = magnitude != 0 && magnitude <= infinity;
    const bool sign = (values[i] & kSign) != 0;
    positive[i] = number && !sign;
    negative[i] = number && sign;
  }
}

}  // namespace

void set_drop(const TensorView& values, std::int64_t n_positive, std::int64_t n_negative,
              const TensorView& keep) {
  const Checker check("set_drop");
  check.floating({"values", values});
  check.device({"values", values}, values.device, "values");
  check_contiguous(check, {"values", values});
  check_mask(check, {"out", keep});
  check.device({"out", keep}, values.device, "values");
  check_same_shape(check, {"out", keep}, {"values", values});
  check.writable({"out", keep}, {{"values", values}});
  const std::int64_t n = values.numel();
  Buffer<std::uint8_t> positive(n), negative(n), dropped(n);
  const auto split = [&](auto type, std::uint64_t infinity) {
    using T = decltype(type);
    const T* data = static_cast<const T*>(values.data);
    parallel_for(chunks_of(n), [&](std::int64_t chunk) {
      const std::int64_t begin = chunk * kChunk, size = std::min(n, begin + kChunk) - begin;
      split_signs(data + begin, size, static_cast<T>(infinity), positive.data() + begin,
                  negative.data() + begin);
    });
  };
  switch (values.dtype) {
    case DType::f64:
      split(std::uint64_t{}, 0x7ff0000000000000u);
      break;
    case DType::f16:
      split(std::uint16_t{}, 0x7c00u);
      break;
    case DType::bf16:
      split(std::uint16_t{}, 0x7f80u);
      break;
    default:
      split(std::uint32_t{}, 0x7f800000u);
      break;
  }
  check_number(check, "n_positive", n_positive, count_nonzero(positive.data(), n),
               "positive values");
  check_number(check, "n_negative", n_negative, count_nonzero(negative.data(), n),
               "negative values");
  const Score score{.w = values, .kind = ScoreKind::value};
  auto* out = static_cast<std::uint8_t*>(keep.data);
  std::fill(out, out + n, std::uint8_t{1});
  const TensorView dropped_view = like_mask(values, dropped.data());
  const auto drop = [&](std::int64_t k, bool largest, std::uint8_t* side) {
    const TensorView within = like_mask(values, side);
    // Among equals the smaller index is kept, so the larger one goes first.
    topk_mask(std::span(&score, 1), k, {.largest = largest, .tie = Tie::high, .op = "set_drop"},
              std::span(&within, 1), std::span(&dropped_view, 1));
    for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<std::uint8_t>(out[i] & ~dropped[i]);
  };
  drop(n_positive, false, positive.data());
  drop(n_negative, true, negative.data());
}

}  // namespace gossamer
