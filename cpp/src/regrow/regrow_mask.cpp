#include <algorithm>
#include <array>
#include <bit>
#include <utility>
#include <vector>

#include "base/bits.h"
#include "base/buffer.h"
#include "base/floats.h"
#include "base/interrupt.h"
#include "base/kernels.h"
#include "base/pool.h"
#include "base/work.h"
#include "gossamer/regrow.h"
#include "prune/select/operands.h"
#include "prune/select/selector.h"
#include "regrow/regrow_common.h"
#include "regrow/regrow_random.h"

namespace gossamer::regrow {
using namespace detail;
using prune::Score;
using prune::SelectOptions;
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 16;  // entries that a task takes
constexpr std::int64_t kBlock = 2048;                   // entries whose changes are listed at once

constexpr std::int64_t kWord = 64;
constexpr const char* kMaskOp = "drop_grow_";

std::int64_t chunks_of(std::int64_t n) { return (n + kChunk - 1) / kChunk; }
std::int64_t words_of(std::int64_t n) { return (n + kWord - 1) / kWord; }

/// A mask as bits, 64 to a word; the unused bits of the last word are 0.
using Bits = Buffer<std::uint64_t>;

/// Calls f(first word, words) -> count for each chunk of n entries and returns the counts' prefix
/// sums [chunks+1].
template <class F>
std::vector<std::int64_t> sums_of_chunks(std::int64_t n, F&& f) {
  std::vector<std::int64_t> sums(static_cast<std::size_t>(chunks_of(n)) + 1, 0);
  for_tasks(chunks_of(n), 0.05 * static_cast<double>(n), [&](std::int64_t chunk) {
    const std::int64_t begin = chunk * (kChunk / kWord);
    const std::int64_t end = std::min(words_of(n), begin + kChunk / kWord);
    sums[static_cast<std::size_t>(chunk) + 1] = f(begin, end);
  });
  for (std::size_t i = 1; i < sums.size(); ++i) sums[i] += sums[i - 1];
  return sums;
}

std::int64_t count_ones_of(const Bits& bits, std::int64_t begin, std::int64_t end) {
  std::int64_t ones = 0;
  base_kernels().list_bits({bits.data() + begin, end - begin, nullptr, &ones});
  return ones;
}

/// bits = which bytes are nonzero; returns how many are before each chunk.
std::vector<std::int64_t> pack(const std::uint8_t* bytes, std::int64_t n, const Bits& bits) {
  return sums_of_chunks(n, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t ones = 0;
    base_kernels().pack_bits({.bytes = bytes + begin * kWord,
                              .count = std::min(n, end * kWord) - begin * kWord,
                              .bits = bits.data() + begin,
                              .ones = &ones});
    return ones;
  });
}

TensorView like_mask(const TensorView& like, std::uint8_t* data) {
  TensorView view = like;
  view.data = data;
  view.dtype = DType::boolean;
  view.readonly = false;
  return view;
}

/// bits = k of `candidates` entries of n, those that score highest.
void select_bits(const Checker& check, const Score& score, const Bits& within,
                 std::int64_t candidates, std::int64_t k, const RegrowOptions& options,
                 const Bits& bits) {
  const SelectOptions order{.largest = true, .tie = options.tie, .nan = options.nan};
  const KeyStream keys(score, KeyStream::type_of(score), order);
  const std::vector<SelectPart> parts = {{.keys = &keys,
                                          .first = 0,
                                          .count = score.w.numel(),
                                          .within = Candidates(within.data()),
                                          .mask = reinterpret_cast<std::uint8_t*>(bits.data())}};
  if (options.nan == prune::Nan::error) refuse_nan(check, parts);
  if (k == 0) {
    std::fill(bits.data(), bits.data() + bits.size(), 0u);
  } else if (k == candidates) {
    std::copy(within.data(), within.data() + within.size(), bits.data());
  } else {
    bits[bits.size() - 1] = 0;
    select(parts, candidates, k, options.tie, prune::MaskFormat::little);
  }
}

/// Sets grown at the places of increasing ranks among those that are free. before[chunk] counts
/// the free places before a chunk.
void place_ranks(const Bits& free, std::int64_t n, const std::vector<std::int64_t>& before,
                 const Buffer<std::int64_t>& ranks, const Bits& grown) {
  const std::int64_t* const first = ranks.data();
  const std::int64_t* const last = first + ranks.size();
  sums_of_chunks(n, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t seen = before[static_cast<std::size_t>(begin / (kChunk / kWord))];
    const std::int64_t* rank = std::lower_bound(first, last, seen);
    for (std::int64_t w = begin; w < end; ++w) {
      std::uint64_t left = free[w], set = 0;
      const std::int64_t after = seen + std::popcount(left);
      for (; rank != last && *rank < after; ++rank) {
        for (; seen < *rank; ++seen) left &= left - 1;
        set |= left & (~left + 1);
      }
      grown[w] = set;
      seen = after;
    }
    return std::int64_t{0};
  });
}

}  // namespace

struct MaskRegrowth::State {
  TensorView mask;  // for its shape and device
  Bits active, kept, grown;
  std::vector<std::int64_t> fresh;  // before each chunk
};

MaskRegrowth::MaskRegrowth(MaskRegrowth&&) noexcept = default;
MaskRegrowth::~MaskRegrowth() = default;

MaskRegrowth::MaskRegrowth(const TensorView& mask, const Score& drop, const Growth& grow,
                           std::int64_t n_drop, std::int64_t n_grow,
                           const std::optional<TensorView>& forbid, const RegrowOptions& options)
    : state_(std::make_unique<State>()) {
  const FloatEnvironment floats;
  const Checker check(kMaskOp);
  const Score* score = std::get_if<Score>(&grow);
  check_drop_grow(check, mask, drop, score, forbid);
  const std::int64_t n = mask.numel();
  const std::int64_t words = words_of(n);
  Bits active(words), kept(words), grown(words), free(words);
  const std::int64_t nnz = pack(bytes_of(mask), n, active).back();
  check_number(check, "n_drop", n_drop, nnz, "active entries");
  if (words != 0) select_bits(check, drop, active, nnz, nnz - n_drop, options, kept);

  if (forbid) pack(bytes_of(*forbid), n, free);
  const Bits& taken = options.allow ? kept : active;
  const auto before = sums_of_chunks(n, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t w = begin; w < end; ++w) {
      const std::uint64_t exists = ~std::uint64_t{0} >> (kWord - std::min(kWord, n - w * kWord));
      free[w] = ~(forbid ? taken[w] | free[w] : taken[w]) & exists;
    }
    return count_ones_of(free, begin, end);
  });
  check_number(check, "n_grow", n_grow, before.back(), "places that may grow");
  if (score == nullptr) {
    const auto ranks = draw_ranks(before.back(), n_grow, std::get<RandomGrowth>(grow));
    place_ranks(free, n, before, ranks, grown);
  } else if (words != 0) {
    select_bits(check, *score, free, before.back(), n_grow, options, grown);
  }
  // What was active and grows again counts as kept, so that `grown` is what is fresh.
  state_->fresh = sums_of_chunks(n, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t w = begin; w < end; ++w) {
      kept[w] |= active[w] & grown[w];
      grown[w] &= ~active[w];
    }
    return count_ones_of(grown, begin, end);
  });
  state_->mask = mask;
  state_->active = std::move(active);
  state_->kept = std::move(kept);
  state_->grown = std::move(grown);
}

std::int64_t MaskRegrowth::fresh() const noexcept { return state_->fresh.back(); }

void MaskRegrowth::apply(const TensorView& mask, std::span<const Followed> arrays,
                         const TensorView& places) const {
  const FloatEnvironment floats;
  const Checker check(kMaskOp);
  check_regrown(check, mask, state_->mask, arrays, places, fresh());
  std::vector<std::uint64_t> bits;
  for (const Followed& one : arrays) bits.push_back(encode(one.value, one.array.dtype));
  const std::int64_t n = mask.numel();
  auto* bytes = static_cast<std::uint8_t*>(mask.data);
  auto* out = static_cast<std::int64_t*>(places.data);
  const State& state = *state_;
  const Uninterrupted whole;
  for_tasks(chunks_of(n), 0.5 * static_cast<double>(n), [&](std::int64_t chunk) {
    std::int64_t* fresh = out + state.fresh[static_cast<std::size_t>(chunk)];
    const std::int64_t end = std::min(n, (chunk + 1) * kChunk);
    for (std::int64_t first = chunk * kChunk; first < end; first += kBlock) {
      const std::int64_t count = std::min(kBlock, end - first), words = words_of(count);
      const std::uint64_t* const grown = state.grown.data() + first / kWord;
      const std::uint64_t* const kept = state.kept.data() + first / kWord;
      const std::uint64_t* const active = state.active.data() + first / kWord;
      std::array<std::uint64_t, kBlock / kWord> after, dropped;
      for (std::int64_t w = 0; w < words; ++w) {
        const auto i = static_cast<std::size_t>(w);
        after[i] = kept[w] | grown[w];
        dropped[i] = active[w] & ~kept[w];
      }
      const BaseKernels& table = base_kernels();
      table.unpack_bits({after.data(), count, bytes + first});
      std::array<std::uint32_t, kBlock + kWord> listed;
      std::int64_t n_fresh = 0;
      table.list_bits({grown, words, listed.data(), &n_fresh});
      for (std::int64_t i = 0; i < n_fresh; ++i) {
        fresh[i] = first + listed[static_cast<std::size_t>(i)];
      }
      fresh += n_fresh;
      for (std::size_t a = 0; a < arrays.size(); ++a) {
        const Followed& one = arrays[a];
        const auto item = size_of(one.array.dtype);
        auto* const data = static_cast<std::byte*>(one.array.data) + first * item;
        const auto* const source =
            one.source ? static_cast<const std::byte*>(one.source->data) + first * item : nullptr;
        if (one.clears) {
          table.write_bits({dropped.data(), count, data, nullptr, 0, static_cast<int>(item)});
        }
        table.write_bits({grown, count, data, source, bits[a], static_cast<int>(item)});
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
  const FloatEnvironment floats;
  const Checker check("set_drop");
  check_set_drop(check, values, keep);
  const Score score{.w = values, .kind = prune::ScoreKind::value};
  const std::int64_t n = values.numel();
  Buffer<std::uint8_t> positive(n), negative(n), dropped(n);
  const auto split = [&](auto type) {
    using T = decltype(type);
    const T* data = static_cast<const T*>(values.data);
    parallel_for(chunks_of(n), [&](std::int64_t chunk) {
      const std::int64_t begin = chunk * kChunk, size = std::min(n, begin + kChunk) - begin;
      split_signs(data + begin, size, static_cast<T>(infinity_bits(values.dtype)),
                  positive.data() + begin, negative.data() + begin);
    });
  };
  switch (size_of(values.dtype)) {
    case 8:
      split(std::uint64_t{});
      break;
    case 4:
      split(std::uint32_t{});
      break;
    default:
      split(std::uint16_t{});
      break;
  }
  check_sides(check, n_positive, count_nonzero(positive.data(), n), n_negative,
              count_nonzero(negative.data(), n));
  auto* out = static_cast<std::uint8_t*>(keep.data);
  std::fill(out, out + n, std::uint8_t{1});
  const TensorView dropped_view = like_mask(values, dropped.data());
  const auto drop = [&](std::int64_t k, bool largest, std::uint8_t* side) {
    const TensorView within = like_mask(values, side);
    // Among equals the smaller index is kept, so the larger one goes first.
    topk_masks(check, std::span(&score, 1), k, {.largest = largest, .tie = prune::Tie::high},
               std::span(&within, 1), std::span(&dropped_view, 1));
    for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<std::uint8_t>(out[i] & ~dropped[i]);
  };
  drop(n_positive, false, positive.data());
  drop(n_negative, true, negative.data());
}

}  // namespace gossamer::regrow
